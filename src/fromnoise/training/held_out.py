"""Measure the loss of held-out images beside that of training images.

If the former rises while the latter falls, the model memorizes its training images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fromnoise.config.schema import Recipe
from fromnoise.data import ImageSet
from fromnoise.data.loader import to_float
from fromnoise.model.model import Model
from fromnoise.model.precision import without_tf32
from fromnoise.rng import BatchDraws, permuted
from fromnoise.training.precision import Precision, autocast

QUARTERS = 4
FEWEST, REPEATS = 8, 16  # losses: at least of each kind, and at most of each image
SHARE = 0.02  # of the time of a training


class HeldOutLoss(NamedTuple):
    """Mean losses by quarter of the timesteps, least noise first, both at the same noise and t."""

    held_out: list[float]
    trained: list[float]

    def row(self) -> dict[str, float]:
        """Return the values for the log."""
        values = {"held_out_loss": self.value, "trained_loss": float(np.mean(self.trained))}
        for i, pair in enumerate(zip(self.held_out, self.trained, strict=True), start=1):
            values |= {f"held_out_loss_q{i}": pair[0], f"trained_loss_q{i}": pair[1]}
        return values

    @property
    def value(self) -> float:
        """Return the mean loss of held-out images over all timesteps."""
        return float(np.mean(self.held_out))


def images_compared(recipe: Recipe, held_out: ImageSet, trained: ImageSet) -> int:
    """Return the number of losses of each kind that take `SHARE` of the time between checkpoints.

    A forward pass takes a third of a training step. If there are fewer images, each is repeated at
    other timesteps.
    """
    settings = recipe.training
    between = min(settings.checkpoint_every, settings.steps) * settings.batch_size
    count = min(
        max(int(3 * SHARE * between / 2), FEWEST), REPEATS * min(map(len, (held_out, trained)))
    )
    return max(count, QUARTERS)


def held_out_loss(
    model: Model,
    recipe: Recipe,
    held_out: ImageSet,
    trained: ImageSet,
    count: int,
    precision: Precision = "fp32",
) -> HeldOutLoss:
    """Return the mean losses of `count` held-out and `count` training images.

    Image i of both has the same noise and timestep, at every call: both depend on the seed alone.
    The timesteps are the centres of `count` strata of {1..T}. Labels are not dropped, and images
    are not augmented.
    """
    seed, T = recipe.training.seed, recipe.diffusion.T
    images = min(len(held_out), len(trained))
    position = np.arange(count)
    t = torch.from_numpy(1 + (2 * position + 1) * T // (2 * count))
    objective, draws = recipe.diffusion.objective(), BatchDraws.of(seed, 0, count)
    denoiser, device = model.denoiser, model.device
    part = max(recipe.training.batch_size // recipe.training.parts, 1)

    @torch.no_grad()
    def by_quarter(data: ImageSet, purpose: str) -> list[float]:
        rows = permuted(position % images, len(data), seed, 0, purpose)
        losses = []
        for i in range(0, count, part):
            now = position[i : i + part]
            x0 = to_float(torch.from_numpy(data.images[rows[now]]).to(device), data.levels)
            eps = draws._replace(positions=now).normal("held-out eps", x0.shape[1:]).to(device)
            names = model.spec.label_names
            labels = data.labels if names else np.zeros((len(data), 0), dtype=np.int8)
            assert labels is not None
            cond = model.condition(torch.from_numpy(labels[rows[now]]))
            cond = cond if cond.shape[1] else None
            losses.append(objective(denoiser, x0, eps, t[now], cond).float().cpu())
        return [each.mean().item() for each in torch.cat(losses).tensor_split(QUARTERS)]

    with without_tf32(), autocast(device, precision):
        return HeldOutLoss(by_quarter(held_out, "held-out"), by_quarter(trained, "trained"))


def ended_by_patience(losses: Sequence[tuple[int, float]], patience: int | None) -> str:
    """Return the reason to end a training, or an empty string to continue it.

    It ends if the held-out loss has not fallen at the last `patience` checkpoints. losses: (step,
    held-out loss) at each checkpoint so far.
    """
    if patience is None or not losses:
        return ""
    best = min(range(len(losses)), key=lambda i: (math.isnan(losses[i][1]), losses[i][1]))
    if len(losses) - 1 - best < patience:
        return ""
    step, loss = losses[best]
    ago = len(losses) - 1 - best
    return f"the held-out loss was lowest at step {step} ({loss:.4g}), {ago} checkpoints ago"
