"""What makes a step fast leaves its numbers: 25 of them beside a loop that makes nothing fast.

The plain loop has the equations of the network (`networks/definitions`), Adam, clipping and the
average as their papers write them, one parameter after the other, and float32 in the usual layout.
"""

from functools import cache

import pytest
import torch

from fromnoise.config.recipe import parse_recipe
from fromnoise.data import open_images
from fromnoise.diffusion import Denoiser
from fromnoise.networks import NETWORKS
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


def options_of(name, dropout):
    return SMALL[name] | ({"dropout": dropout} if name in DROP_OUT else {})


def first_denoiser(recipe, name, dropout):
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=1, **options_of(name, dropout))
    return Denoiser(network, recipe.diffusion.noise_schedule())


def ours(recipe, batches, name, computation, dropout):
    """Losses of all steps, (STEPS, B), and the average weights by name."""
    denoiser = first_denoiser(recipe, name, dropout).train()
    state = TrainingState.start(denoiser, recipe.training, computation)
    objective, losses = recipe.diffusion.objective(), []
    for step, batch in enumerate(batches):
        torch.manual_seed(step)  # of what drops out
        losses.append(train_step(state, objective, batch, recipe.training)[0])
    return torch.stack(losses), state.ema.module.state_dict()


def plain(recipe, batches, name, definition, dropout):
    """The same, by equations."""
    network = first_denoiser(recipe, name, dropout).network
    weights = {key: p.detach().clone().requires_grad_() for key, p in network.named_parameters()}
    average = {key: p.detach().clone() for key, p in weights.items()}
    m = {key: torch.zeros_like(p) for key, p in weights.items()}
    v = {key: torch.zeros_like(p) for key, p in weights.items()}
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1), (1 - beta).cumprod(0)])
    history = []
    for n, batch in enumerate(batches):
        x0 = batch.x0.double() / 255 * 2 - 1
        kept = alpha_bar[batch.t][:, None, None, None]
        x_t = (kept.sqrt() * x0 + (1 - kept).sqrt() * batch.eps).float()
        torch.manual_seed(n)
        predicted = definition(weights, x_t, batch.t - 1, **options_of(name, dropout))
        losses = (predicted - batch.eps).square().flatten(1).mean(1)
        losses.mean().backward()
        norm = sum(p.grad.square().sum() for p in weights.values()).sqrt()
        with torch.no_grad():
            for key, p in weights.items():
                g = p.grad * min(1.0, CLIP / (norm.item() + 1e-6))
                m[key] = 0.9 * m[key] + 0.1 * g
                v[key] = 0.999 * v[key] + 0.001 * g * g
                m_hat, v_hat = m[key] / (1 - 0.9 ** (n + 1)), v[key] / (1 - 0.999 ** (n + 1))
                p -= LR * m_hat / (v_hat.sqrt() + 1e-8)
                d = min(recipe.training.ema_decay, (1 + n) / (10 + n))
                average[key] = d * average[key] + (1 - d) * p
                p.grad = None
        history.append(losses.detach())
    return torch.stack(history), average


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
        return plain(recipe, batches, name, definition_of(name), dropout)

    return of


@pytest.mark.slow
@pytest.mark.usefixtures("same_elements_drop_out")
@pytest.mark.parametrize("channels_last", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_in_fp32_the_loss_curve_is_the_same(recipe, batches, expected, name, channels_last):
    dropout = 0.0 if name in CHAOTIC else 0.1
    losses, average = ours(recipe, batches, name, Computation("fp32", channels_last), dropout)
    exact, exact_average = expected(name, dropout)
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
    losses, _ = ours(recipe, batches, name, Computation("bf16", False), 0.1)
    off = losses.mean(1) / expected(name, 0.1)[0].mean(1) - 1
    assert off.abs().max() < BAND[name]
    assert off.mean().abs() < 0.01
    assert off.abs().max() > 1e-6  # it was bf16
