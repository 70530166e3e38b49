"""What makes a step fast leaves its numbers: 50 of them beside a loop that makes nothing fast.

The plain loop has the equations of the network (`networks/definitions`), Adam, clipping and the
average as their papers write them, one parameter after the other, and float32 in the usual layout.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from fromnoise.config import parse_recipe
from fromnoise.data import open_images
from fromnoise.diffusion import Denoiser
from fromnoise.networks import NETWORKS
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState
from fromnoise.training.step import draw, learn

STEPS, LR, CLIP = 50, 1e-3, 0.5
NETWORK = {"channels": 16, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4, "dropout": 0.0}
RECIPE = {
    "data": {"source": "digits"},
    "network": {"name": "ddpm", **NETWORK, "multipliers": [1, 2]},
    "training": {"steps": STEPS, "batch_size": 16, "learning_rate": LR, "clip_norm": CLIP},
}


@pytest.fixture(scope="module")
def recipe():
    return parse_recipe(RECIPE, "the test")


@pytest.fixture(scope="module")
def batches(recipe):
    data = open_images("digits")
    return [draw(recipe, data, step) for step in range(STEPS)]


def first_denoiser(recipe):
    torch.manual_seed(0)
    network = NETWORKS["ddpm"](image_channels=1, **NETWORK)
    return Denoiser(network, recipe.diffusion.noise_schedule())


def ours(recipe, batches, computation):
    """Losses of all steps, (STEPS, B), and the average weights by name."""
    state = TrainingState.start(first_denoiser(recipe).train(), recipe.training, computation)
    objective = recipe.diffusion.objective()
    losses = [learn(state, objective, batch, recipe.training)[0] for batch in batches]
    return torch.stack(losses), state.ema.module.state_dict()


@pytest.fixture(scope="module")
def plain(recipe, batches):
    """The same, by equations."""
    file = Path(__file__).parents[1] / "networks" / "definitions" / "ddpm.py"
    spec = importlib.util.spec_from_file_location("definition", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    network = first_denoiser(recipe).network
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    average = {name: p.detach().clone() for name, p in weights.items()}
    m = {name: torch.zeros_like(p) for name, p in weights.items()}
    v = {name: torch.zeros_like(p) for name, p in weights.items()}
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1), (1 - beta).cumprod(0)])
    history = []
    for n, batch in enumerate(batches):
        x0 = batch.x0.double() / 255 * 2 - 1
        kept = alpha_bar[batch.t][:, None, None, None]
        x_t = (kept.sqrt() * x0 + (1 - kept).sqrt() * batch.eps).float()
        predicted = module.definition(weights, x_t, batch.t - 1, **NETWORK)
        losses = (predicted - batch.eps).square().flatten(1).mean(1)
        losses.mean().backward()
        norm = sum(p.grad.square().sum() for p in weights.values()).sqrt()
        with torch.no_grad():
            for name, p in weights.items():
                g = p.grad * min(1.0, CLIP / (norm.item() + 1e-6))
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g * g
                m_hat, v_hat = m[name] / (1 - 0.9 ** (n + 1)), v[name] / (1 - 0.999 ** (n + 1))
                p -= LR * m_hat / (v_hat.sqrt() + 1e-8)
                d = min(recipe.training.ema_decay, (1 + n) / (10 + n))
                average[name] = d * average[name] + (1 - d) * p
                p.grad = None
        history.append(losses.detach())
    return torch.stack(history), average


def test_the_recipe_is_what_the_plain_loop_assumes(recipe):
    assert recipe.diffusion.schedule.name == "linear"
    assert recipe.diffusion.T == 1000
    assert recipe.diffusion.prediction == "eps"
    settings = recipe.training
    assert (settings.optimizer, settings.warmup_steps, settings.weight_decay) == ("adam", 0, 0)
    assert settings.lr_schedule == "constant"


@pytest.mark.parametrize("channels_last", [False, True])
def test_in_fp32_the_loss_curve_is_the_same(recipe, batches, plain, channels_last):
    losses, average = ours(recipe, batches, Computation("fp32", channels_last))
    expected, expected_average = plain
    torch.testing.assert_close(losses.mean(1), expected.mean(1), rtol=1e-5, atol=1e-5)
    assert expected.mean(1)[-10:].mean() < 0.5 * expected.mean(1)[0]  # it did learn
    for name, p in expected_average.items():
        torch.testing.assert_close(average[name], p, rtol=0, atol=5e-4)


def test_in_bf16_the_loss_curve_stays_within_a_band(recipe, batches, plain):
    """Each step within 5 % of the loss, and all together within 1 %."""
    losses, _ = ours(recipe, batches, Computation("bf16", False))
    off = losses.mean(1) / plain[0].mean(1) - 1
    assert off.abs().max() < 0.05
    assert off.mean().abs() < 0.01
    assert off.abs().max() > 1e-6  # it was bf16
