"""One optimiser step: the batch, its gradient, and the update."""

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fromnoise.config.schema import Recipe, Training
from fromnoise.data import ImageSet
from fromnoise.data.loader import load_batch, load_conditions, to_float
from fromnoise.diffusion import Objective
from fromnoise.rng import generator
from fromnoise.training.noise_levels import LossHistory, draw_noise_levels
from fromnoise.training.precision import autocast
from fromnoise.training.state import TrainingState

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # the numbers in malloc.h
LARGEST = 32 * 2**20  # bytes: glibc maps larger blocks anew in any case


class Batch(NamedTuple):
    """The inputs of one step, on the CPU.

    x0: uint8 (B,C,H,W). eps: the shape of x0. t ∈ {1..T}: (B,). cond: (B,K), None unless
    `data.labels`. factor: of the loss, (B,), None for 1. self_conditioned: bool (B,), true for the
    images whose x_0 is estimated first, None unless `network.self_conditioning`.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    cond: Tensor | None = None
    factor: Tensor | None = None
    self_conditioned: Tensor | None = None


def sample_images(recipe: Recipe, data: ImageSet, step: int) -> tuple[Tensor, Tensor]:
    """Return x_0 and ε of one step, a function of (seed, step). This is the slow part of a batch.

    With `diffusion.offset_noise` s, ε is ε + s·ξ, with one normal number ξ for each image and
    channel. The network thus learns to change the mean of a channel, which ε alone hardly changes.
    """
    seed, size = recipe.training.seed, recipe.training.batch_size
    x0 = load_batch(data, seed=seed, step=step, batch_size=size, flip=recipe.data.flip)
    eps = torch.randn(x0.shape, generator=generator(seed, step, "eps"))
    if strength := recipe.diffusion.offset_noise:
        shift = torch.randn(*x0.shape[:2], 1, 1, generator=generator(seed, step, "offset"))
        eps = eps + strength * shift
    return x0, eps


def sample_batch(
    recipe: Recipe,
    data: ImageSet,
    step: int,
    history: LossHistory | None = None,
    images: tuple[Tensor, Tensor] | None = None,
) -> Batch:
    """Return the batch of one step: a function of (seed, step) and, for importance, of the history.

    images: the result of `sample_images` for this step, if it is there already.
    """
    settings = recipe.training
    seed, size = settings.seed, settings.batch_size
    x0, eps = images or sample_images(recipe, data, step)
    rng = generator(seed, step, "t")
    t, factor = draw_noise_levels(settings.noise_levels, recipe.diffusion.T, size, rng, history)
    cond = self_conditioned = None
    if recipe.data.labels:
        shares = {"dropout": settings.condition_dropout, "label_dropout": settings.label_dropout}
        cond = load_conditions(data, seed=seed, step=step, batch_size=size, **shares)
    if recipe.network.options.get("self_conditioning", False):
        draws = generator(seed, step, "hint")  # this key is the stream of stored runs
        self_conditioned = torch.rand(size, generator=draws) < 0.5
    return Batch(x0, eps, t, cond, factor, self_conditioned)


def backward(state: TrainingState, objective: Objective, batch: Batch, accumulation: int) -> Tensor:
    """Add the gradient of the batch's mean loss, computed in parts. Return the losses (B,).

    The factors of the batch apply to the gradient, but not to the returned losses.
    """
    device, count = next(state.denoiser.parameters()).device, len(batch.x0)
    losses = []
    for rows in torch.arange(count).chunk(accumulation):
        kept = slice(int(rows[0]), int(rows[-1]) + 1)
        part = Batch._make(None if each is None else each[kept] for each in batch)
        x0 = to_float(part.x0.to(device, non_blocking=True))  # on CUDA it is pinned
        eps = part.eps.to(device, non_blocking=True)
        cond = None if part.cond is None else part.cond.to(device, non_blocking=True)
        with autocast(device, state.computation.precision):
            loss = objective(
                state.denoiser, x0, eps, part.t, cond, self_conditioned=part.self_conditioned
            )
        weighted = loss if part.factor is None else loss * part.factor.to(device, non_blocking=True)
        state.scaler.scale(weighted.sum() / count).backward()
        losses.append(loss.detach())
    return torch.cat(losses)


def train_step(
    state: TrainingState, objective: Objective, batch: Batch, settings: Training
) -> tuple[Tensor, float]:
    """Take one optimiser step on this batch. Return the losses (B,) on the CPU and gradient norm.

    If a loss or the norm is not finite, weights and buffers do not change and
    `state.skipped_in_a_row` is above 0. Except for dropout, everything is a function of the batch
    and the state.
    """
    network = state.denoiser.network
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]  # of batch normalisation
    losses = backward(state, objective, batch, settings.accumulation)
    losses, norm, stepped = apply_gradients(
        network, state.optimizer, state.scaler, losses, clip_norm=settings.clip_norm
    )
    if stepped:
        for average in (state.ema, *state.power_emas):
            average.update(network, state.updates)
        state.updates += 1
        state.skipped_in_a_row = 0
        if state.history is not None:
            state.history.add(batch.t, losses)
    else:
        state.skipped_in_a_row += 1
        for buffer, before in buffers:  # the forward pass has changed it
            buffer.copy_(before)
    return losses, norm


def apply_gradients(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    losses: Tensor,
    *,
    clip_norm: float | None = None,
) -> tuple[Tensor, float, bool]:
    """Clip the gradients, step the optimiser unless a loss or the norm is not finite, and reset.

    Returns the losses (B,) on the CPU, the norm before clipping, and whether it stepped.
    """
    scaler.unscale_(optimizer)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    losses, norm = torch.cat([losses, total[None]]).cpu().split([len(losses), 1])  # waits once
    norm = norm.item()
    if clip_norm and norm > clip_norm:  # otherwise leave the gradients alone
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), clip_norm, total)
    finite = math.isfinite(norm) and bool(torch.isfinite(losses).all())
    if finite:
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return losses, norm, finite


def keep_freed_memory() -> None:
    """Keep the memory that a step frees in this process, for the next step.

    Otherwise glibc returns it to the system, and the next step gets new pages, each with a page
    fault and filled with zeros: 27,000 in a step of `stacked`, a tenth of its time. Without glibc
    this function does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
