"""The contract of `networks/base.py`, kept by every network."""

from itertools import product

import pytest
import torch
from torch import nn

from fromnoise.networks import NETWORKS

DDPM = {"channels": 8, "groups": 4, "multipliers": (1, 2), "dropout": 0.0}
DENSE = {
    "channels": (8, 4, 12),
    "mid_channels": (12, 4),
    "downsample": (True, False),
    "time_dim": 6,
    "num_layers": (1, 1, 1),
    "heads": 2,
    "out_width": 4,
    "groups": 2,
}
STACKED = {
    "channels": (4, 8, 16, 16),
    "attention": (False, True, False, True),
    "upscale": (False, False, True, True),
    "groups": 2,
    "dropout": 0.0,
    "heads": 2,
}
LINEAR = {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 4, "memories": 3}
CONTEXT = {"features": 8, "pool": 3, "expand": 3}
FORMS = {
    "ddpm": ("ddpm", DDPM),
    "ddpm, scale and shift": ("ddpm", {**DDPM, "scale_shift": True}),
    "ddpm, patches, blocks and heads": (
        "ddpm",
        {**DDPM, "patch": 2, "num_res_blocks": (1, 2), "head_channels": 4},
    ),
    "ddpm, residual": ("ddpm", {**DDPM, "downsample": "residual", "head_channels": (4, 8)}),
    "dense_attention": ("dense_attention", DENSE),
    "stacked, published": ("stacked", STACKED),
    "stacked, corrected": (
        "stacked",
        {**STACKED, "time": "projected", "attention_form": "residual"},
    ),
    "linear_attention": ("linear_attention", LINEAR),
    "linear_attention, June 2022": ("linear_attention", {**LINEAR, "form": "june2022"}),
    "linear_attention, with its skip": (
        "linear_attention",
        {**LINEAR, "form": "june2022_skip", "full_attention_levels": (0,)},
    ),
    "context, published": ("context", CONTEXT),
    "context, corrected": (
        "context",
        {**CONTEXT, "norm": "group", "embedding": "sinusoid", "condition": "signed"},
    ),
}
each_form = pytest.mark.parametrize("form", FORMS)


def build(form, **options):
    """A small network in float64, every weight random; norms in evaluation mode."""
    name, own = FORMS[form]
    network = NETWORKS[name](**{**own, **options}).double().eval()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def inputs(network, batch=2):
    k = network.size_multiple
    x = torch.randn(batch, network.image_channels, 2 * k, k, dtype=torch.float64)
    return x, torch.randint(400, (batch,))


def test_every_network_is_here():
    assert {name for name, _ in FORMS.values()} == NETWORKS.keys()


@each_form
def test_any_channels_and_a_learned_variance(form):
    for channels, learned in product((1, 3, 5), (False, True)):
        network = build(form, image_channels=channels, learned_variance=learned)
        x, t = inputs(network)
        assert network(x, t).shape == (2, channels * (1 + learned), *x.shape[2:])


@each_form
@pytest.mark.parametrize("learned_variance", [False, True])
def test_a_self_cond_of_zeros_is_the_network_without_and_another_is_not(form, learned_variance):
    self_conditioned = build(form, self_conditioning=True, learned_variance=learned_variance)
    plain = build(form, learned_variance=learned_variance)
    state = self_conditioned.state_dict()
    for name, tensor in plain.state_dict().items():
        state[name] = state[name][:, : tensor.shape[1]] if tensor.ndim == 4 else state[name]
    plain.load_state_dict(state)
    x, t = inputs(plain)
    expected = plain(x, t)
    got = self_conditioned(torch.cat([x, torch.zeros_like(x)], dim=1), t)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(self_conditioned(torch.cat([x, x], dim=1), t), expected)


@each_form
@pytest.mark.parametrize("patch", [2, 4])
def test_a_network_of_patches_is_that_of_their_pixels_as_channels(form, patch):
    def patches(x):
        rows = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B,C,H/p,p,W/p,p)
        return rows.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    for learned, self_conditioning in product((False, True), (False, True)):
        options = {"learned_variance": learned, "self_conditioning": self_conditioning}
        network = build(form, **options, patch=patch)
        plain = build(form, **options, patch=1, image_channels=3 * patch**2)
        plain.load_state_dict(network.state_dict())
        assert network.size_multiple == patch * plain.size_multiple
        assert network.largest_size == patch * plain.largest_size
        x, t = inputs(network)
        earlier = torch.randn_like(x) if self_conditioning else x[:, :0]
        out = network(torch.cat([x, earlier], dim=1), t)
        given = torch.cat([patches(part) for part in (x, earlier) if part.numel()], dim=1)
        expected = plain(given, t)
        for part, of_plain in zip(out.split(3, dim=1), expected.chunk(1 + learned, 1), strict=True):
            torch.testing.assert_close(patches(part), of_plain, rtol=1e-10, atol=1e-10)


@each_form
@pytest.mark.parametrize("cond_dim", [1, 4])
def test_a_condition_of_zeros_is_no_condition_and_another_is_not(form, cond_dim):
    network = build(form, cond_dim=cond_dim)
    x, t = inputs(network)
    without = network(x, t)
    zeros = torch.zeros(2, cond_dim)
    torch.testing.assert_close(network(x, t, zeros), without, rtol=0, atol=0)
    assert not torch.allclose(network(x, t, torch.eye(2, cond_dim)), without)


@each_form
def test_a_condition_that_it_was_not_built_for_is_refused(form):
    network = build(form)
    with pytest.raises(ValueError, match="takes no condition"):
        network(*inputs(network), torch.ones(2, 3))
    network = build(form, cond_dim=4)
    for shape in ((2, 3), (1, 4)):
        with pytest.raises(ValueError, match=r"Give one row for each image: \(2, 4\)\."):
            network(*inputs(network), torch.ones(shape))


@each_form
def test_images_of_a_batch_do_not_see_each_other(form):
    network = build(form)
    x, t = inputs(network, batch=3)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t), alone, rtol=1e-9, atol=1e-9)


@each_form
def test_channels_last_gives_the_same_numbers(form):
    network = build(form).train()
    x, t = inputs(network)
    expected = network(x, t)
    network = network.to(memory_format=torch.channels_last)
    out = network(x.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@each_form
def test_half_precision_gives_nearly_the_same_numbers(form):
    network = build(form, cond_dim=4, learned_variance=True).float().train()
    for parameter in network.parameters():  # as large as trained weights are
        parameter.data *= 0.3
    x, t = inputs(network)
    x, cond = x.float(), torch.eye(4)[:2]
    expected = network(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, t, cond)
    assert out.dtype == torch.bfloat16
    # By norm: how far a single element is off depends on the processor's kernels. One rounding is
    # off by up to 2⁻⁹ of a number, and tens of them in a row add up like a walk: to 0.3 to 1.3 % of
    # the norm, with AVX2 or without. A layer that computes anything else is off by tens of percent.
    assert torch.linalg.vector_norm(out.float() - expected) < 0.05 * expected.norm()


@pytest.mark.parametrize(
    "form", ["ddpm", "stacked, published", "stacked, corrected", "linear_attention"]
)
def test_dropout_acts_in_training_only(form):
    network = build(form, dropout=0.5).train()
    x, t = inputs(network)
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    torch.testing.assert_close(network(x, t), network(x, t), rtol=0, atol=0)


@each_form
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(form):
    network = build(form)
    k = network.size_multiple
    with pytest.raises(ValueError, match=rf"both sides must be multiples of {k}.*Use {k}x"):
        network(torch.zeros(1, 3, k, k + 1).double(), torch.zeros(1))
