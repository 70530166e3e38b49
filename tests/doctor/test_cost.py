import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.config.components import Component, check_component
from fromnoise.config.recipe import parse_recipe
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.diffusion.denoiser import estimate_x0
from fromnoise.doctor import cost
from fromnoise.doctor.cost import Attention, activation_bytes, count_work, free_memory, measure
from fromnoise.model.spec import ModelSpec
from fromnoise.networks import NETWORKS
from fromnoise.training.precision import Computation

FP32 = Computation("fp32", False)
SMALL = {
    "ddpm": {"channels": 8, "groups": 4, "attention_levels": [0, 1]},
    "dense_attention": {"channels": [8, 8, 8, 8], "mid_channels": [8, 8], "out_width": 8},
    "stacked": {"channels": [8, 16, 32, 64, 64, 48], "groups": 4, "heads": 2},
    "linear_attention": {"dim": 8, "multipliers": [1, 2]},
    "context": {"features": 8},
}


def denoiser_of(name, cond_dim=0, **options):
    whole = check_component(Component(name=name, **options), "network").options
    given = {"T": 10} if name == "context" else {}
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=3, cond_dim=cond_dim, **given, **whole)
    return Denoiser(network, NoiseSchedule.named("cosine", 10))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_work_has_attention_as_two_products(name):
    denoiser, x0 = denoiser_of(name, **SMALL[name]).eval(), torch.zeros(1, 3, 32, 32)
    _, multiply_adds, _ = count_work(denoiser, x0)
    apart = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), apart, FlopCounterMode(display=False) as counter:
        denoiser(x0, torch.ones(1, dtype=torch.long))
    assert multiply_adds == counter.get_total_flops() / 2


def test_the_work_of_known_layers():
    """A convolution: 3·3·9 products for each of 16·24 pixels."""
    layer = nn.Conv2d(3, 3, 3, padding=1)
    layer.forward = lambda x, t, cond=None: nn.Conv2d.forward(layer, x)
    denoiser = Denoiser(layer, NoiseSchedule.named("cosine", 10))
    _, multiply_adds, attention = count_work(denoiser, torch.zeros(1, 3, 16, 24))
    assert (multiply_adds, attention) == (3 * 3 * 9 * 16 * 24, ())


def test_every_attention_is_seen_with_its_tokens():
    denoiser = denoiser_of("ddpm", **SMALL["ddpm"]).eval()
    _, _, attention = count_work(denoiser, torch.zeros(1, 3, 16, 24))
    tokens = [16 * 24] * 2 + [8 * 12] * 2 + [2 * 3] + [8 * 12] * 3 + [16 * 24] * 3
    assert [a.tokens for a in attention] == tokens
    assert attention[0] == Attention(384, 384, heads=1, multiply_adds=2 * 384 * 384 * 8)
    stacked = denoiser_of("stacked", **SMALL["stacked"]).eval()
    of_stacked = count_work(stacked, torch.zeros(1, 3, 32, 32))
    assert {a.heads for a in of_stacked[2]} == {2}


class Squares(nn.Module):
    """x_t·w → its square: x_t and x_t·w are kept for the backward pass, and the error for mse."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x, t, cond=None):
        return (x * self.weight).square()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_kept_is_counted_once_and_by_image(count):
    denoiser = Denoiser(Squares(), NoiseSchedule.named("cosine", 10))
    x0, t = torch.zeros(count, 3, 4, 4), torch.ones(count).long()
    loss = partial(Objective(), denoiser, x0, torch.zeros_like(x0), t)
    kept = activation_bytes(denoiser, lambda: loss().mean().backward(), half=False)
    # three tensors of 3×4×4 floats and the weight of the loss; no weight of the network
    assert kept[0] == kept[1]  # no blocks
    assert kept.everything // count == 3 * 3 * 4 * 4 * 4 + 4
    assert all(p.grad is None for p in denoiser.parameters())


@pytest.fixture
def tiny_denoiser():
    torch.manual_seed(0)
    network = NETWORKS["ddpm"](
        image_channels=1, channels=8, multipliers=(1, 2), num_res_blocks=1, groups=4
    )
    return Denoiser(network, NoiseSchedule.named("cosine", 100))


@pytest.fixture
def look(tiny, tiny_denoiser):
    """look(seconds=…): measure the tiny network, or another."""

    def call(seconds=20.0, denoiser=tiny_denoiser, size=(8, 8), channels=1, labels=(), **training):
        changes = {f"training.{key}": value for key, value in training.items()}
        recipe = parse_recipe(tiny, "tiny", changes)
        spec = ModelSpec(
            network=recipe.network,
            diffusion=recipe.diffusion,
            sampling=recipe.sampling,
            channels=channels,
            size=size,
            label_names=labels,
        )
        return measure(denoiser, recipe, spec, FP32, seconds)

    return call


def test_a_network_that_is_hinted_is_measured_with_hints(monkeypatch, look):
    def noted(*given):
        seen.append(given[-1].tolist())
        return estimate_x0(*given)

    seen = []
    denoiser = denoiser_of("ddpm", **SMALL["ddpm"], self_conditioning=True)
    monkeypatch.setattr("fromnoise.training.step.estimate_x0", noted)
    look(denoiser=denoiser, channels=3, batch_size=4)
    assert seen[0] == [True, False]
    assert seen[-1] == [True, False, True, False]


def test_measures_a_step(look, tiny_denoiser):
    found = look()
    parameters = sum(p.numel() for p in tiny_denoiser.parameters())
    assert found.parameters == parameters
    assert found.weight_bytes == 4 * parameters
    assert found.step_seconds > 0
    assert found.image_bytes > 8 * 8 * 4


@pytest.mark.parametrize(("parts", "largest"), [(1, 8), (4, 2)])
def test_the_timed_steps_are_of_one_part_of_a_batch(look, monkeypatch, parts, largest):
    def noted(self, denoiser, x0, *others, **more):
        seen.append(len(x0))
        return compute(self, denoiser, x0, *others, **more)

    seen, compute = [], Objective.__call__
    monkeypatch.setattr(Objective, "__call__", noted)
    assert look(parts=parts).step_seconds > 0
    assert max(seen) == largest


def test_changes_nothing(look, tiny_denoiser):
    weights = {name: tensor.clone() for name, tensor in tiny_denoiser.state_dict().items()}
    mode, state = tiny_denoiser.training, torch.get_rng_state()
    look()
    assert torch.equal(state, torch.get_rng_state())
    assert tiny_denoiser.training == mode
    assert all(torch.equal(weights[name], t) for name, t in tiny_denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_denoiser.parameters())


def test_without_time_only_the_forward_pass_of_one_image_is_run(look, monkeypatch):
    monkeypatch.setattr(cost, "activation_bytes", None)
    found = look(seconds=0.0)
    assert (found.step_seconds, found.image_bytes) == (None, None)
    assert found.multiply_adds > 0


def test_the_time_is_kept(look, tiny_denoiser, monkeypatch):
    """A network that sleeps for 20 ms an image: a whole batch of 8 would fit three times."""

    def slow(x, t, cond=None):
        time.sleep(0.02 * len(x))
        return forward(x, t, cond)

    forward = tiny_denoiser.network.forward
    monkeypatch.setattr(tiny_denoiser.network, "forward", slow)
    look(seconds=0.0)
    started = time.perf_counter()
    found = look(seconds=0.6)
    assert time.perf_counter() - started < 5  # of a machine that others use too
    assert found.step_seconds is None or found.step_seconds > 8 * 0.02


def test_memory_that_is_there():
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**24 < free < 2**50
    assert free_memory(torch.device("meta")) is None


def test_a_network_with_batch_statistics_and_labels_is_measured(look):
    denoiser = denoiser_of("context", cond_dim=2, features=8, norm="batch")
    found = look(denoiser=denoiser, size=(32, 32), channels=3, labels=("a", "b"))
    assert found.attention == ()
    assert found.image_bytes is None or found.image_bytes > 3 * 32 * 32 * 4
