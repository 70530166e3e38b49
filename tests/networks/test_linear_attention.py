import re

import pytest
import torch
from torch import nn

from fromnoise.networks import LinearAttentionUNet
from fromnoise.networks.linear_attention import RMSNorm

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

TINY = {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 4, "memories": 3}


def build(**options) -> LinearAttentionUNet:
    """A small network in float64, every weight random."""
    network = LinearAttentionUNet(**{**TINY, **options}).double()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def inputs(network: LinearAttentionUNet, height: int = 8, width: int = 8, batch: int = 2):
    x = torch.randn(batch, network.image_channels, height, width, dtype=torch.float64)
    return x, torch.randint(1000, (batch,))


def assert_same_gradients(actual: dict, expected: dict, tolerance: float) -> None:
    largest = max(g.abs().max().item() for g in expected.values())
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 8)),
        ({"image_channels": 1, "init_dim": 6}, (6, 10)),
        ({"multipliers": (1, 3, 2), "full_attention_levels": (0, 2)}, (12, 4)),
        ({"multipliers": (2, 1, 1), "full_attention_levels": (), "heads": 1}, (4, 8)),
        ({"multipliers": (2,), "full_attention_levels": (), "image_channels": 5}, (3, 5)),
        ({"cond_dim": 6}, (4, 4)),
        ({"cond_dim": 6, "learned_variance": True, "memories": 1}, (4, 4)),
        ({"dropout": 0.4}, (4, 4)),
    ],
    ids=[
        "published",
        "grey",
        "full-levels",
        "linear-only",
        "one-level",
        "cond",
        "cond-variance",
        "dropout",
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_definition(definition_of, options, size, layout):
    network = build(**options).to(memory_format=layout)
    x, t = inputs(network, *size)
    cond = torch.tensor([[1.0, -1, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]]).double()
    cond = cond if network.cond_dim else None
    p = {name: w.detach().clone().requires_grad_() for name, w in network.named_parameters()}
    torch.manual_seed(1)  # for both the same elements drop out
    out = network(x.to(memory_format=layout), t, cond)
    torch.manual_seed(1)
    expected = definition_of("linear_attention")(p, x, t, cond, **{**TINY, **options})
    assert out.shape[1] == network.image_channels * (1 + network.learned_variance)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(expected)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_same_gradients(
        {name: w.grad for name, w in network.named_parameters()},
        {name: w.grad for name, w in p.items()},
        1e-10,
    )


THEIRS = (  # from names here to those of the installed library, in this order
    (r"^time1", "time_mlp.1"),
    (r"^time2", "time_mlp.3"),
    (r"^stem", "init_conv"),
    (r"^out", "final_conv"),
    (r"^last", "final_res_block"),
    (r"^middle_attention", "mid_attn"),
    (r"^middle", "mid_block"),
    (r"^(down|up)\.(\d)\.block1", r"\1s.\2.0"),
    (r"^(down|up)\.(\d)\.block2", r"\1s.\2.1"),
    (r"^(down|up)\.(\d)\.attention", r"\1s.\2.2"),
    (r"^(down|up)\.(\d)\.resample", r"\1s.\2.3"),
    (r"\.time\.", ".mlp.1."),
    (r"\.conv(\d)", r".block\1.proj"),
    (r"\.norm(\d)", r".block\1.norm"),
    (r"shortcut", "res_conv"),
    (r"memory", "mem_kv"),
    (r"qkv", "to_qkv"),
    (r"\.out\.", ".to_out."),
    (r"out_norm", "to_out.1"),
    (r"gain", "g"),
)


@pytest.mark.parametrize(
    ("options", "their_options"),
    [
        ({}, {}),
        (
            {"image_channels": 1, "learned_variance": True},
            {"channels": 1, "learned_variance": True},
        ),
        (
            {"init_dim": 6, "multipliers": (2, 1, 1), "full_attention_levels": (1,)},
            {"init_dim": 6, "dim_mults": (2, 1, 1), "full_attn": (False, True, False)},
        ),
    ],
    ids=["published", "grey-variance", "full-level"],
)
def test_equals_the_library_that_it_is_from(options, their_options):
    library = pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    ours = build(**{**options, "memories": 4, "head_dim": 6}).float()
    usual = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 6}
    theirs = library.Unet(**{**usual, **their_options})
    parameters = dict(theirs.named_parameters())

    def twin(name: str) -> torch.Tensor:
        for pattern, replacement in THEIRS:
            name = re.sub(pattern, replacement, name)
        inside = name.replace("to_out.", "to_out.0.").replace(".3.", ".3.1.")
        return parameters.pop(name if name in parameters else inside)

    twins = {name: twin(name) for name, _ in ours.named_parameters()}
    assert not parameters

    def as_theirs(name: str, tensor: torch.Tensor) -> torch.Tensor:
        linear = name.endswith(".memory") and tensor.shape != twins[name].shape
        return tensor.mT if linear else tensor.reshape(twins[name].shape)

    with torch.no_grad():
        for name, tensor in ours.named_parameters():
            twins[name].copy_(as_theirs(name, tensor))
    x, t = inputs(ours, 8, 12)
    x = x.float()
    out, expected = ours(x, t), theirs(x, t)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.std().item())

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_same_gradients(
        {name: as_theirs(name, p.grad) for name, p in ours.named_parameters()},
        {name: p.grad for name, p in twins.items()},
        1e-5,
    )


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 1, 1)])
@pytest.mark.parametrize("modulated", [False, True])
def test_the_norm_has_the_gradient_of_its_formula(shape, modulated):
    torch.manual_seed(0)
    norm = RMSNorm(shape[1]).double()
    nn.init.normal_(norm.gain)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    told = [torch.randn(shape[:2], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    inputs = (x, norm.gain, *(told if modulated else ()))

    def of_inputs(x, gain, *told):
        return torch.func.functional_call(norm, {"gain": gain}, (x, told or None))

    assert torch.autograd.gradcheck(of_inputs, inputs)


def test_the_norm_of_nothing_is_nothing_and_has_a_finite_gradient():
    norm = RMSNorm(3)
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    norm(x).sum().backward()
    assert norm(x).count_nonzero() == 0
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 3**0.5 * 1e12))


@pytest.mark.parametrize("modulated", [False, True])
def test_the_norm_rounds_once_in_half_precision(modulated):
    torch.manual_seed(0)
    norm = RMSNorm(64)
    x = torch.randn(2, 64, 4, 4).bfloat16()
    told = (torch.randn(2, 64), torch.randn(2, 64)) if modulated else None
    out, exact = norm(x, told), norm(x.float(), told)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=0, atol=0)


def count(**options) -> int:
    with torch.device("meta"):
        network = LinearAttentionUNet(**options)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_has_the_published_number_of_parameters():
    assert count() == 35_711_491
    assert count(cond_dim=10) == 35_711_491 + 10 * 256
    assert count(learned_variance=True) == 35_711_491 + 3 * 65
    assert count(form="june2022") == 32_253_963
    assert count(form="june2022", cond_dim=10) == 32_253_963 + 10 * 256


@settings(max_examples=25, deadline=None)
@given(
    image_channels=st.integers(1, 6),
    multipliers=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    data=st.data(),
)
def test_any_size_fits_and_images_do_not_see_each_other(
    image_channels, multipliers, height, width, data
):
    levels = data.draw(st.none() | st.sets(st.integers(0, len(multipliers) - 1)).map(sorted))
    network = build(
        image_channels=image_channels, multipliers=multipliers, full_attention_levels=levels
    )
    k = network.size_multiple
    assert k == 2 ** (len(multipliers) - 1)
    x, t = inputs(network, height * k, width * k, batch=3)
    out = network(x, t)
    assert out.shape == x.shape
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-9)


def test_a_size_that_the_levels_do_not_divide_is_refused():
    network = build(multipliers=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"30x30 .* Use 24x24 or 32x32"):
        network(*inputs(network, 30, 30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": ()}, r"multipliers is \[\]\. Give one or more numbers"),
        ({"multipliers": (1, 0)}, r"multipliers is \[1, 0\]\. "),
        ({"dim": 2}, r"dim is 2\. Use an even number ≥ 4\."),
        ({"dim": 9}, r"dim is 9\. Use an even number ≥ 4\."),
        ({"init_dim": 0}, r"init_dim is 0\. Use at least 1\."),
        ({"heads": 0}, r"heads is 0\. Use at least 1\."),
        ({"head_dim": 0}, r"head_dim is 0\. Use at least 1\."),
        ({"memories": 0}, r"memories is 0\. Use at least 1\."),
        ({"dropout": 1.0}, r"dropout is 1\.0\. Use 0 or more"),
        ({"dropout": -0.1}, r"dropout is -0\.1\. Use 0 or more"),
        ({"full_attention_levels": (1, 2)}, r"attention_levels has \[2\]\. Use levels in 0\.\.1"),
        ({"form": "june2022_skip", "init_dim": 12}, r"so 12 is the width of a block\. Make "),
        ({"full_attention_levels": (-1,)}, r"attention_levels has \[-1\]\. Use levels in 0\.\.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LinearAttentionUNet(**{**TINY, **options})
