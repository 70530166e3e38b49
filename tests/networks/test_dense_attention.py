import math

import pytest
import torch
from torch import nn

from fromnoise.networks import DenseAttention
from fromnoise.networks.layers import sinusoid

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

TINY = {
    "channels": (8, 4, 12),
    "mid_channels": (12, 4),
    "downsample": (True, False),
    "time_dim": 6,
    "num_layers": (1, 1, 1),
    "heads": 2,
    "out_width": 4,
    "groups": 2,
}


def build(**options) -> DenseAttention:
    """A small network in float64, every weight random."""
    network = DenseAttention(**{**TINY, **options}).double()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def inputs(network: DenseAttention, height: int = 8, width: int = 8, batch: int = 2):
    x = torch.randn(batch, network.image_channels, height, width, dtype=torch.float64)
    return x, torch.randint(1000, (batch,))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 8)),
        ({"num_layers": (2, 2, 2), "image_channels": 1}, (6, 10)),
        ({"num_layers": (1, 3, 2), "mid_channels": (12, 8, 16, 4)}, (4, 4)),
        ({"attention_levels": (1,)}, (4, 2)),
        ({"attention_levels": (), "downsample": (True, True)}, (4, 8)),
        ({"downsample": (False, False), "heads": 1, "image_channels": 5}, (3, 5)),
        ({"channels": (8, 16), "mid_channels": (16, 8), "downsample": (True,)}, (4, 4)),
        ({"cond_dim": 6}, (4, 4)),
        ({"cond_dim": 6, "learned_variance": True}, (4, 4)),
    ],
    ids=[
        "published",
        "layers-grey",
        "middle",
        "one-level-attends",
        "none-attends",
        "one-size",
        "one-block",
        "cond",
        "variance",
    ],
)
def test_equals_the_definition(definition_of, options, size):
    network = build(**options)
    x, t = inputs(network, *size)
    cond = torch.tensor([[1.0, -1, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]]).double()
    cond = cond if network.cond_dim else None
    out = network(x, t, cond)
    p = {name: w.detach().clone().requires_grad_() for name, w in network.named_parameters()}
    expected = definition_of("dense_attention")(p, x, t, cond, **{**TINY, **options})
    assert out.shape[1] == network.image_channels * (1 + network.learned_variance)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    gradients = {name: w.grad for name, w in network.named_parameters()}
    expected_gradients = {name: w.grad for name, w in p.items()}
    largest = max(g.abs().max().item() for g in expected_gradients.values())
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10 * largest)


@given(half=st.integers(1, 64), t=st.integers(0, 999))
def test_time_is_all_sines_then_all_cosines(half, t):
    angles = [t * 10000 ** (-i / half) for i in range(half)]
    expected = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]])
    features = sinusoid(torch.tensor([t]), 2 * half, "periods")
    assert features.dtype == torch.float32
    # The angle is a float32 up to t, off by a few of its roundings.
    torch.testing.assert_close(features, expected, rtol=0, atol=(1 + t) * 3e-7)


def count(**options) -> int:
    with torch.device("meta"):
        network = DenseAttention(**options)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_has_the_published_number_of_parameters():
    assert count() == 10_188_947


def test_a_condition_adds_one_layer_without_bias():
    assert count(cond_dim=24) == count() + 24 * 128


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_without_attention_lacks_that_of_both_its_blocks(level):
    widths = [(64, 16), (128, 32), (256, 64)][level]  # what the blocks down and up emit
    attention = sum(2 * (2 * c + 3 * c * (c + 1) + c * (c + 1)) for c in widths)  # norm, qkv, out
    others = [i for i in range(3) if i != level]
    assert count(attention_levels=others) == count() - attention


@settings(max_examples=25, deadline=None)
@given(
    image_channels=st.integers(1, 6),
    downsample=st.lists(st.booleans(), min_size=2, max_size=2),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    levels=st.none() | st.sets(st.integers(0, 1)).map(sorted),
)
def test_any_size_fits_and_images_do_not_see_each_other(
    image_channels, downsample, height, width, levels
):
    network = build(image_channels=image_channels, downsample=downsample, attention_levels=levels)
    k = network.size_multiple
    assert k == 2 ** sum(downsample)
    x, t = inputs(network, height * k, width * k, batch=3)
    out = network(x, t)
    assert out.shape == x.shape
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-9)


def test_evaluation_is_training_without_chance():
    network = build()
    x, t = inputs(network)
    training = network(x, t)
    torch.testing.assert_close(network.eval()(x, t), training, rtol=0, atol=0)


def test_a_size_that_the_levels_do_not_divide_is_refused():
    network = build(downsample=(True, True))
    with pytest.raises(ValueError, match=r"30x30 .* Use 28x28 or 32x32"):
        network(*inputs(network, 30, 30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8,)}, r"channels is \[8\] and mid_channels \[12, 4\]\. Give two or more"),
        ({"mid_channels": (12,)}, r"8, 4, 12\] and mid_channels \[12\]\. Give two or more"),
        ({"mid_channels": (12, 8)}, r"mid_channels is \[12, 8\]\. Let it start with 12 and end"),
        ({"mid_channels": (8, 4)}, r"mid_channels is \[8, 4\]\. Let it start with 12 and end"),
        (
            {"groups": 8},
            r"multiple of groups, but 4 is not one of 8\. Set for example groups = 4\.",
        ),
        ({"groups": 0}, "multiple of groups, but 8 is not one of 0"),
        ({"heads": 3}, r"multiple of heads, but 8 is not one of 3\. Set for example heads = 4\."),
        (
            {"out_width": 7},
            r"multiple of groups, but 7 is not one of 2\. Set for example groups = 1\.",
        ),
        ({"out_width": 0}, "multiple of groups, but 0 is not one of 2"),
        ({"downsample": (True,)}, r"downsample is \[True\]\. .* each of the 2 blocks"),
        ({"num_layers": (2, 2)}, r"num_layers is \[2, 2\]\. Give three numbers"),
        ({"num_layers": (2, 0, 2)}, r"num_layers is \[2, 0, 2\]\. Give three numbers"),
        ({"time_dim": 7}, r"time_dim is 7\. Use an even number ≥ 2\."),
        ({"time_dim": 0}, r"time_dim is 0\. Use an even number ≥ 2\."),
        ({"attention_levels": (1, 2)}, r"attention_levels has \[2\]\. Use levels in 0\.\.1"),
        ({"attention_levels": (-1,)}, r"attention_levels has \[-1\]\. Use levels in 0\.\.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenseAttention(**{**TINY, **options})
