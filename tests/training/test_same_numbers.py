"""What makes a step fast leaves its numbers: 25 of them beside a loop that makes nothing fast.

The plain loop has the equations of the network (`networks/definitions`), of what it predicts, Adam,
Muon, clipping and the average as their papers write them, one parameter after the other, and
float32 in the usual layout.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fromnoise.config.recipe import parse_recipe
from fromnoise.data import open_images
from fromnoise.diffusion import Denoiser
from fromnoise.networks import NETWORKS
from fromnoise.rng import BatchDraws
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState
from fromnoise.training.step import sample_batch, train_step

STEPS, LR, CLIP = 25, 1e-3, 0.5
SMALL = {
    "ddpm": {"channels": 16, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4},
    "linear_attention": {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 8},
    "stacked": {
        "channels": (16, 32),
        "attention": (True, False),
        "upscale": (False, True),
        "groups": 4,
        "heads": 2,
        "time": "projected",
        "attention_form": "residual",
    },
    "dense_attention": {
        "channels": (8, 16),
        "mid_channels": (16, 8),
        "downsample": (True,),
        "time_dim": 16,
        "num_layers": (1, 1, 1),
        "heads": 2,
        "groups": 4,
    },
    "context": {"features": 8, "pool": 2, "expand": 2},
}
DROP_OUT = {"ddpm", "stacked"}
# biases before a normalisation of each channel, which takes away what they add: their gradient is
# rounding alone, and Adam makes steps of it
IDLE = {"context": (".conv1.bias", ".conv2.bias", "out1.bias")}
# ReLU after dropout turns a rounding near 0 into another gradient, here from the ninth step on
CHAOTIC = {"stacked"}
BAND = dict.fromkeys(SMALL, 0.05) | {"stacked": 0.12}  # of the loss of a step, in bf16
RECIPE = {
    "data": {"source": "digits"},
    "network": {"name": "ddpm"},
    "training": {"steps": STEPS, "batch_size": 16, "learning_rate": LR, "clip_norm": CLIP},
}


@pytest.fixture(scope="module")
def recipe():
    return parse_recipe(RECIPE, "the test")


@pytest.fixture(scope="module")
def batches(recipe):
    data = open_images("digits")
    batches = [sample_batch(recipe, data, step) for step in range(STEPS)]
    return [batch._replace(dropout=None) for batch in batches]  # torch's generator draws


class Equations(NamedTuple):
    """What a network sees, predicts and is judged by, as functions of x_0, ε and t, in float64."""

    seen: Callable[[Tensor, Tensor, Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor], Tensor]
    factor: Callable[[Tensor], Tensor] = torch.ones_like  # of the squared error


def ddpm_alpha_bar(t):
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return torch.cat([torch.ones(1), (1 - beta).cumprod(0)])[t]


EPS = Equations(
    lambda x0, eps, t: ddpm_alpha_bar(t).sqrt() * x0 + (1 - ddpm_alpha_bar(t)).sqrt() * eps,
    lambda x0, eps, t: eps,
)


def options_of(name, dropout):
    return SMALL[name] | ({"dropout": dropout} if name in DROP_OUT else {})


def first_denoiser(recipe, name, options):
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=1, **options)
    diffusion = recipe.diffusion
    return Denoiser(network, diffusion.noise_schedule(), diffusion.prediction.name)


def ours(recipe, batches, name, computation, options):
    """Losses of all steps, (steps, B), the weights and their average by name."""
    denoiser = first_denoiser(recipe, name, options).train()
    state = TrainingState.start(denoiser, recipe.training, computation)
    objective, losses = recipe.diffusion.objective(), []
    for step, batch in enumerate(batches):
        torch.manual_seed(step)  # of what drops out
        losses.append(train_step(state, objective, batch, recipe.training)[0])
    return torch.stack(losses), denoiser.network.state_dict(), state.ema.module.state_dict()


def plain(recipe, batches, name, definition, options, equations=EPS, hidden=()):
    """The same, by equations. hidden: the weights that Muon trains."""
    network = first_denoiser(recipe, name, options).network
    weights = {key: p.detach().clone().requires_grad_() for key, p in network.named_parameters()}
    average = {key: p.detach().clone() for key, p in weights.items()}
    m = {key: torch.zeros_like(p) for key, p in weights.items()}
    v = {key: torch.zeros_like(p) for key, p in weights.items()}
    history = []
    for n, batch in enumerate(batches):
        x0, eps = batch.x0.double() / 255 * 2 - 1, batch.eps.double()
        t = batch.t[:, None, None, None]
        torch.manual_seed(n)
        seen = equations.seen(x0, eps, t).float()
        predicted = definition(weights, seen, batch.t - 1, **options)
        wrong = predicted - equations.target(x0, eps, t).float()
        losses = (equations.factor(t.double()).float() * wrong.square()).flatten(1).mean(1)
        losses.mean().backward()
        norm = sum(p.grad.square().sum() for p in weights.values()).sqrt()
        with torch.no_grad():
            for key, p in weights.items():
                g = p.grad * min(1.0, CLIP / (norm.item() + 1e-6))
                if key in hidden:
                    m[key] = 0.95 * m[key] + g
                    p -= LR * muon_update(key, g + 0.95 * m[key])
                else:
                    m[key] = 0.9 * m[key] + 0.1 * g
                    v[key] = 0.999 * v[key] + 0.001 * g * g
                    m_hat, v_hat = m[key] / (1 - 0.9 ** (n + 1)), v[key] / (1 - 0.999 ** (n + 1))
                    p -= LR * m_hat / (v_hat.sqrt() + 1e-8)
                d = min(recipe.training.ema_decay, (1 + n) / (10 + n))
                average[key] = d * average[key] + (1 - d) * p
                p.grad = None
        history.append(losses.detach())
    return torch.stack(history), weights, average


def test_the_recipe_is_what_the_plain_loop_assumes(recipe):
    assert recipe.diffusion.schedule.name == "linear"
    assert recipe.diffusion.T == 1000
    assert recipe.diffusion.prediction.name == "eps"
    settings = recipe.training
    assert (settings.optimizer, settings.warmup_steps, settings.weight_decay) == ("adam", 0, 0)
    assert settings.lr_schedule == "constant"


@pytest.fixture(scope="module")
def expected(recipe, batches, definition_of):
    """expected("ddpm", 0.1): what the plain loop comes to, which is walked once for each."""

    @cache
    def of(name, dropout):
        options = options_of(name, dropout)
        return plain(recipe, batches, name, definition_of(name), options)

    return of


@pytest.mark.slow
@pytest.mark.usefixtures("same_elements_drop_out")
@pytest.mark.parametrize("channels_last", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_in_fp32_the_loss_curve_is_the_same(recipe, batches, expected, name, channels_last):
    dropout = 0.0 if name in CHAOTIC else 0.1
    options = options_of(name, dropout)
    losses, _, average = ours(recipe, batches, name, Computation("fp32", channels_last), options)
    exact, _, exact_average = expected(name, dropout)
    torch.testing.assert_close(losses.mean(1), exact.mean(1), rtol=1e-5, atol=1e-5)
    assert exact.mean(1)[-5:].mean() < 0.75 * exact.mean(1)[0]  # it did train_step
    for key, p in exact_average.items():
        if not key.endswith(IDLE.get(name, ())):
            torch.testing.assert_close(average[key], p, rtol=0, atol=5e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("same_elements_drop_out")
@pytest.mark.parametrize("name", SMALL)
def test_in_bf16_the_loss_curve_stays_within_a_band(recipe, batches, expected, name):
    """Each step within its band, and all together within 1 %."""
    losses, *_ = ours(recipe, batches, name, Computation("bf16", False), options_of(name, 0.1))
    off = losses.mean(1) / expected(name, 0.1)[0].mean(1) - 1
    assert off.abs().max() < BAND[name]
    assert off.mean().abs() < 0.01
    assert off.abs().max() > 1e-6  # it was bf16


# ---- choices of a recipe, 50 steps of each -------------------------------------------------------


def flow_alpha_sigma(t):
    """x_t = (1−τ) x_0 + τ ε, over the standard deviation of both together."""
    tau = t.double() / 1000
    return torch.stack([1 - tau, tau]) / torch.hypot(1 - tau, tau)


def min_snr_of_flow(t):
    """min(SNR, 5) for x̂_0, whose error is that of u times σ/(α + σ)."""
    alpha, sigma = flow_alpha_sigma(t)
    return ((alpha / sigma) ** 2).clamp(max=5) * (sigma / (alpha + sigma)) ** 2


FLOW = Equations(
    lambda x0, eps, t: sum(c * x for c, x in zip(flow_alpha_sigma(t), (x0, eps), strict=True)),
    lambda x0, eps, t: eps - x0,
    min_snr_of_flow,
)


def karras_noise(t):
    """σ of Karras et al.: Eq. 5, from 0.002 at t = 1 to 80 at t = 1000."""
    least, most = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return (least + (t.double() - 1) / 999 * (most - least)) ** 7


def karras_target(x0, eps, t, data=0.5):
    """F for which c_skip (x_0 + σ ε) + c_out F = x_0."""
    noise = karras_noise(t)
    skip = data**2 / (noise**2 + data**2)
    out = noise * data / torch.hypot(noise, torch.tensor(data))
    return (x0 - skip * (x0 + noise * eps)) / out


def truncated_snr_of_karras(t, data=0.5):
    """max(SNR, 1) c_out²."""
    noise = karras_noise(t)
    return (1 / noise**2).clamp(min=1) * (noise * data) ** 2 / (noise**2 + data**2)


EDM = Equations(
    lambda x0, eps, t: (x0 + karras_noise(t) * eps) / (karras_noise(t) ** 2 + 0.25).sqrt(),
    karras_target,
    truncated_snr_of_karras,
)


def muon_update(key, direction):
    """0.2 √max(out, in) times the orthogonal part, in float64 and one matrix after the other."""
    parts = []
    for matrix in direction.double().chunk(3 if ".qkv." in key else 1):
        g = matrix.flatten(1)
        scale = 0.2 * max(g.shape) ** 0.5
        wide = g.shape[0] <= g.shape[1]
        x = g if wide else g.T
        x = x / x.norm().clamp(min=1e-300)  # zeros stay zeros
        for _ in range(5):
            xx = x @ x.T
            x = 3.4445 * x - 4.7750 * xx @ x + 2.0315 * xx @ xx @ x
        parts.append((scale * (x if wide else x.T)).reshape(matrix.shape))
    return torch.cat(parts).float()


def hidden_of(network):
    """The matrices between the first and the last, without those that read the time."""
    return {
        key
        for key, p in network.named_parameters()
        if p.ndim > 1 and not key.startswith(("stem", "out", "time")) and ".time." not in key
    }


def normal_times(step, mean=2.4, std=2.4):
    """t with p_t the mass of N(mean, std²) between the midpoints of the log-SNRs around it."""
    a = ddpm_alpha_bar(torch.arange(1, 1001))
    level = [math.log(each / (1 - each)) for each in a.tolist()]
    edges = [(left + right) / 2 for left, right in pairwise(level)]
    edges = [2 * level[0] - edges[0], *edges, 2 * level[-1] - edges[-1]]
    below = [0.5 * math.erfc((mean - edge) / std / 2**0.5) for edge in edges]
    mass = [left - right for left, right in pairwise(below)]
    draws = BatchDraws.of(0, step, 16)
    places = (draws.strata("t, strata") + draws.uniform("t")[:, 0]) / 16 * sum(mass)
    times = []
    for place in places:
        t = 0
        while t < 999 and place >= 0:
            place -= mass[t]
            t += 1
        times.append(t)
    return torch.tensor(times)


CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any], Equations]] = {
    "flow": (
        {"diffusion": {"prediction": "flow", "schedule": "flow", "weighting": "min_snr"}},
        {},
        FLOW,
    ),
    "edm": (
        {"diffusion": {"prediction": "edm", "schedule": "edm", "weighting": "truncated_snr"}},
        {},
        EDM,
    ),
    "normal": ({"training": {"noise_levels": "normal"}}, {}, EPS),
    "patches": ({}, {"patch": 2}, EPS),
    "heads": ({}, {"num_res_blocks": [1, 2], "head_channels": 8, "attention_levels": (0, 1)}, EPS),
    "muon": ({"training": {"optimizer": "muon"}}, {}, EPS),
}


# over the length of all that was learned. Five steps of Muon multiply the rounding of a small
# singular value by up to 3.4445⁵ = 485
APART = dict.fromkeys(CHOICES, 1e-5) | {"muon": 5e-5}


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_fifty_steps_of_a_choice_come_to_the_same_weights(choice, definition_of):
    more, options, equations = CHOICES[choice]
    tree = {**RECIPE, **more, "training": {**RECIPE["training"], **more.get("training", {})}}
    recipe, data = parse_recipe(tree, "the test"), open_images("digits")
    batches = [sample_batch(recipe, data, step) for step in range(50)]
    if choice == "normal":
        assert [b.t.tolist() for b in batches] == [normal_times(n).tolist() for n in range(50)]
    options = {**SMALL["ddpm"], "channels": 8, "dropout": 0.0, **options}
    first = first_denoiser(recipe, "ddpm", options).network
    hidden = hidden_of(first) if choice == "muon" else ()
    losses, weights, average = ours(recipe, batches, "ddpm", Computation("fp32", False), options)
    given = definition_of("ddpm"), options, equations, hidden
    exact, exact_weights, exact_average = plain(recipe, batches, "ddpm", *given)
    torch.testing.assert_close(losses.mean(1), exact.mean(1), rtol=1e-5, atol=1e-5)
    assert exact[-5:].mean() < 0.95 * exact[:5].mean()  # it learned
    starts = dict(first.named_parameters())
    for got, right in ((weights, exact_weights), (average, exact_average)):
        apart, moved = [], []
        for key, p in right.items():
            # what the bias of k adds to all tokens, softmax takes away: its gradient is rounding
            rows = (3, -1) if key.endswith("qkv.bias") else (1, -1)
            apart.append((got[key] - p).detach().view(rows)[::2].norm())
            moved.append((p - starts[key]).detach().view(rows)[::2].norm())
        assert torch.stack(apart).norm() < APART[choice] * torch.stack(moved).norm()
