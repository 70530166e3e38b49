import pytest
import torch
from torch import nn

from fromnoise.networks import DDPM

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

GROUPS = 4
TINY = {"channels": 8, "groups": GROUPS, "multipliers": (1, 2), "dropout": 0.0}


def build(**options) -> DDPM:
    """A small network in float64, every weight random: as built, it would return zeros."""
    network = DDPM(**{**TINY, **options}).double()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def inputs(network: DDPM, height: int = 8, width: int = 8, batch: int = 2):
    x = torch.randn(batch, network.image_channels, height, width, dtype=torch.float64)
    return x, torch.randint(1000, (batch,))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"image_channels": 3}, (8, 8)),
        ({"image_channels": 1, "embedding": "interleaved"}, (8, 8)),
        ({"image_channels": 5, "downsample": "symmetric"}, (6, 10)),
        ({"multipliers": (1, 3, 2), "num_res_blocks": 1, "attention_levels": (0, 2)}, (12, 4)),
        ({"multipliers": (2,), "num_res_blocks": 3, "attention_levels": ()}, (3, 5)),
        ({"cond_dim": 6}, (4, 4)),
        ({"dropout": 0.4}, (4, 4)),
        ({"learned_variance": True, "norm_eps": 0.3}, (4, 4)),
        ({"scale_shift": True, "cond_dim": 6}, (4, 4)),
        ({"patch": 2}, (8, 12)),
        ({"patch": 4, "image_channels": 1, "learned_variance": True}, (16, 8)),
        ({"patch": 2, "multipliers": (2,), "attention_levels": (0,), "cond_dim": 6}, (6, 10)),
        ({"multipliers": (1, 2, 2), "num_res_blocks": (1, 3, 2)}, (8, 8)),
        ({"attention_levels": (0, 1), "head_channels": 4}, (8, 8)),
        ({"attention_levels": (), "head_channels": 16}, (4, 4)),
        ({"patch": 2, "num_res_blocks": [2, 1], "head_channels": 2, "dropout": 0.4}, (8, 4)),
        ({"attention_levels": (0, 1), "head_channels": [2, 8]}, (8, 8)),
        ({"multipliers": (1, 2, 1), "downsample": "residual", "scale_shift": True}, (8, 12)),
        ({"downsample": "residual", "dropout": 0.4, "cond_dim": 6}, (4, 4)),
    ],
    ids=[
        "defaults",
        "interleaved",
        "symmetric",
        "levels",
        "one-level",
        "cond",
        "dropout",
        "learned variance, eps",
        "scale-shift",
        "patch 2",
        "patch 4",
        "patch, one level",
        "blocks of each level",
        "heads",
        "heads of the middle",
        "patch, blocks, heads",
        "heads of each level",
        "residual",
        "residual, dropout, cond",
    ],
)
def test_equals_the_definition(definition_of, options, size):
    network = build(**options)
    x, t = inputs(network, *size)
    cond = torch.tensor([[1.0, -1, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]]).double()
    cond = cond if network.cond_dim else None
    torch.manual_seed(1)  # for both the same elements drop out
    out = network(x, t, cond)
    torch.manual_seed(1)
    p = {name: q.detach().clone().requires_grad_() for name, q in network.named_parameters()}
    expected = definition_of("ddpm")(p, x, t, cond, **{**TINY, **options})
    assert out.shape[1] == network.image_channels * (1 + network.learned_variance)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 35_746_307),  # the paper's CIFAR-10 network
        ({"multipliers": (1, 2, 3, 4), "attention_levels": (2,)}, 82_958_979),
    ],
)
def test_has_the_published_number_of_parameters(options, count):
    with torch.device("meta"):
        network = DDPM(**options)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


def test_a_new_network_returns_zeros():
    network = DDPM(**{**TINY, "cond_dim": 4, "dropout": 0.5})
    out = network(torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.ones(2, 4))
    assert out.count_nonzero() == 0


def test_every_residual_branch_of_a_new_network_starts_at_zero():
    x = torch.randn(2, 8, 4, 4)
    network = DDPM(**{**TINY, "attention_levels": (0, 1)})
    block, attention = network.down[0].blocks[0], network.down[0].attentions[0]
    torch.testing.assert_close(block(x, torch.randn(2, 32)), x, rtol=0, atol=0)
    torch.testing.assert_close(attention(x), x, rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    image_channels=st.integers(1, 6),
    multipliers=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    patch=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    data=st.data(),
)
def test_any_size_fits_and_images_do_not_see_each_other(
    image_channels, multipliers, patch, height, width, data
):
    levels = st.sets(st.integers(0, len(multipliers) - 1))
    depths, count = st.integers(1, 2), len(multipliers)
    each = st.lists(depths, min_size=count, max_size=count)
    network = build(
        image_channels=image_channels,
        multipliers=multipliers,
        patch=patch,
        num_res_blocks=data.draw(depths | each),
        attention_levels=sorted(data.draw(levels)),
        head_channels=data.draw(st.sampled_from([None, 1, 2, 4, 8])),
    )
    k = network.size_multiple
    assert k == patch * 2 ** (count - 1)
    x, t = inputs(network, height * k, width * k, batch=3)
    out = network(x, t)
    assert out.shape == x.shape
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-9)


def test_a_size_that_the_levels_do_not_divide_is_refused():
    network = build(multipliers=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"30x30 .* Use 24x24 or 32x32"):
        network(*inputs(network, 30, 30))
    network = build(patch=4)  # TINY has two levels
    with pytest.raises(ValueError, match=r"28x32 .* multiples of 8\. Use 24x32 or 32x32"):
        network(*inputs(network, 28, 32))


def test_the_new_options_at_their_defaults_are_todays_network_bit_for_bit():
    """The same names, initial weights and numbers, however the defaults are written."""
    forms = ({}, {"patch": 1, "num_res_blocks": [2, 2], "head_channels": None})
    results = []
    for options in (*forms, {"head_channels": 16}):  # one head in the widest level
        torch.manual_seed(0)
        network = DDPM(**{**TINY, **options})
        weights = network.state_dict()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
        x, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 999])
        results.append({**weights, "output": network(x, t)})
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for name, tensor in other.items():
            assert torch.equal(tensor, results[0][name]), name


def test_a_list_of_blocks_is_that_many_blocks():
    network = build(multipliers=(1, 2, 2), num_res_blocks=(1, 3, 2))
    assert [len(level.blocks) for level in network.down] == [1, 3, 2]
    assert [len(level.blocks) for level in network.up] == [3, 4, 2]


def test_the_first_channels_of_patches_are_the_prediction_and_the_last_the_variance():
    network = build(patch=2, image_channels=2, learned_variance=True)
    x, t = inputs(network)
    before = network(x, t)
    network.out.bias.data[2 * 4 + 3] += 1  # of the variance's first channel, right below
    change = (network(x, t) - before).round(decimals=6)
    expected = torch.zeros_like(change)
    expected[:, 2, 1::2, 1::2] = 1
    assert torch.equal(change, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": ()}, r"multipliers is \[\]\. Give one or more numbers"),
        ({"multipliers": (1, 0)}, r"multipliers is \[1, 0\]\. "),
        ({"num_res_blocks": 0}, r"num_res_blocks is 0\. Use at least 1\."),
        ({"num_res_blocks": (1, 2, 3)}, r"num_res_blocks is \[1, 2, 3\]\. Give a number ≥ 1, or 2"),
        ({"num_res_blocks": ()}, r"num_res_blocks is \[\]\. Give a number"),
        ({"num_res_blocks": (1, 0)}, r"num_res_blocks is \[1, 0\]\. Give a number"),
        ({"patch": 3}, r"patch is 3\. Use 1, 2 or 4\."),
        ({"patch": 0}, r"patch is 0\. Use 1, 2 or 4\."),
        ({"head_channels": 5}, r"head_channels is 5, but the width 16 .* head_channels = 16\."),
        (
            {"head_channels": 16, "attention_levels": (0, 1)},
            r"head_channels is 16, but the width 8 .* head_channels = 8\.",
        ),
        ({"head_channels": 0}, r"head_channels is 0, but the width 16"),
        ({"head_channels": [4]}, r"head_channels is \[4\]\. Give a number, or 2 of them"),
        ({"head_channels": [3, 5]}, r"head_channels is 5, but the width 16"),
        ({"head_channels": -4}, r"head_channels is -4, but the width 16"),
        ({"channels": 2, "groups": 1}, r"channels is 2\. Use an even number ≥ 4\."),
        ({"channels": 9, "groups": 3}, r"channels is 9\. Use an even number ≥ 4\."),
        ({"groups": 3}, r"8 is not one of 3\. Set for example groups = 1\."),
        ({"groups": 0}, "channels must be a multiple of groups"),
        ({"dropout": 1.0}, r"dropout is 1\.0\. Use 0 or more"),
        ({"dropout": -0.1}, r"dropout is -0\.1\. Use 0 or more"),
        ({"attention_levels": (1, 2)}, r"attention_levels has \[2\]\. Use levels in 0\.\.1"),
        ({"attention_levels": (-1,)}, r"attention_levels has \[-1\]\. Use levels in 0\.\.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DDPM(**{**TINY, **options})
