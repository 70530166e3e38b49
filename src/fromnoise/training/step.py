"""One optimiser step: the batch, its gradient, and the update."""

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fromnoise.config.schema import Recipe, Training
from fromnoise.data import ImageSet, augmentation
from fromnoise.data.decoding.decode import background_of
from fromnoise.data.loader import load_batch, load_conditions, to_float
from fromnoise.diffusion import Objective
from fromnoise.diffusion.denoiser import estimate_x0
from fromnoise.diffusion.schedule import on_device
from fromnoise.networks.layers import WEYL, dropout_keys, mixed
from fromnoise.rng import BatchDraws
from fromnoise.training.noise_levels import LossHistory, draw_noise_levels, probabilities
from fromnoise.training.precision import autocast
from fromnoise.training.state import TrainingState

CPU = torch.device("cpu")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # the numbers in malloc.h
LARGEST = 32 * 2**20  # bytes: glibc maps larger blocks anew in any case


class Batch(NamedTuple):
    """The inputs of one step, on the CPU; `eps` may be on the device that trains.

    x0: uint8 (B,C,H,W). eps: the shape of x0. t ∈ {1..T}: (B,). cond: (B,K), None unless
    `data.labels`. factor: of the loss, (B,), None for 1. self_conditioned: bool (B,), true for the
    images whose x_0 is estimated first, None unless `network.self_conditioning`. dropout: keys of
    `dropout_keys`, (B,), for the pass with a gradient; first_dropout: for the estimate.
    bound_factor: of the variational bound alone, if the loss contains it, (B,), None for 1.
    augment: further columns of the condition, (B,A), None unless `training.augment`.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    cond: Tensor | None = None
    factor: Tensor | None = None
    self_conditioned: Tensor | None = None
    dropout: Tensor | None = None
    first_dropout: Tensor | None = None
    bound_factor: Tensor | None = None
    augment: Tensor | None = None

    def part(self, rows: slice) -> "Batch":
        """Return some images of the batch."""
        return Batch._make(None if each is None else each[rows] for each in self)

    def condition(self) -> Tensor | None:
        """Return the condition of the network: labels, then columns of augmentation; or None."""
        given = [each for each in (self.cond, self.augment) if each is not None]
        return torch.cat(given, dim=1) if given else None


def draws_of(recipe: Recipe, step: int, positions: np.ndarray | None = None) -> BatchDraws:
    """Return the random numbers of a step, for the whole batch or for some positions in it."""
    draws = BatchDraws.of(recipe.training.seed, step, recipe.training.batch_size)
    return draws if positions is None else draws._replace(positions=positions)


def sample_images(
    recipe: Recipe, data: ImageSet, step: int, positions: np.ndarray | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return x_0 and ε of a step, or of some positions of its batch. This is its slow part.

    With `diffusion.offset_noise` s, ε is ε + s·ξ, with one normal number ξ for each image and
    channel. The network thus learns to change the mean of a channel, which ε alone hardly changes.
    With `training.noise_device: device`, ε is None: `sample_batch` draws it there. With
    `training.augment` the images are transformed, see `data/augmentation.py`.
    """
    draws, settings = draws_of(recipe, step, positions), recipe.training
    x0 = load_batch(data, draws, flip=recipe.data.flip)
    if settings.augment:
        a = augmentation.parameters(draws, settings.augment, settings.augmentations)
        background = background_of(x0.shape[1], recipe.data.background)
        if data.levels.depth != 8:  # x_0 is in [−1, 1]
            background = to_float(torch.from_numpy(background)).numpy()
        x0 = augmentation.augment(x0, a, background)
    if settings.noise_device == "device":
        return x0, None
    eps = draws.normal("eps", x0.shape[1:])
    if strength := recipe.diffusion.offset_noise:
        eps += strength * draws.normal("offset", (x0.shape[1], 1, 1))
    return x0, eps


def noise_on_device(
    draws: BatchDraws, purpose: str, shape: Sequence[int], device: torch.device
) -> Tensor:
    """Return standard normal numbers, float32 (B, *shape), drawn on a device.

    Each 64 random bits give two of them (Box and Muller 1958): √(−2 ln u_1) · (cos, sin)(2π u_2).
    The bits are the same on every device; the functions may round differently.
    """
    pairs = -(-math.prod(shape) // 2)
    counters = torch.arange(1, pairs + 1, device=device) * WEYL
    bits = mixed(on_device(draws.keys(purpose), device)[:, None] + counters)
    u1, u2 = ((each & 0xFFFFFFFF).float() / 2**32 for each in (bits >> 32, bits))
    radius, angle = (-2 * (u1 + 2**-33).log()).clamp(min=0).sqrt(), 2 * math.pi * u2
    normal = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return normal[:, : math.prod(shape)].reshape(-1, *shape)


def sample_batch(
    recipe: Recipe,
    data: ImageSet,
    step: int,
    history: LossHistory | None = None,
    images: tuple[Tensor, Tensor | None] | None = None,
    *,
    positions: np.ndarray | None = None,
    device: torch.device = CPU,
) -> Batch:
    """Return the batch of one step: a function of (seed, step) and, for importance, of the history.

    images: the result of `sample_images` for this step; None to compute it. positions: draw only
    these images of the batch. device: where the noise is drawn with `training.noise_device:
    device`.
    """
    settings, draws = recipe.training, draws_of(recipe, step, positions)
    x0, eps = images or sample_images(recipe, data, step, positions)
    if eps is None:
        eps = noise_on_device(draws, "eps", x0.shape[1:], device)
        if strength := recipe.diffusion.offset_noise:
            eps += strength * noise_on_device(draws, "offset", (x0.shape[1], 1, 1), device)
    name, T, p = settings.noise_levels.name, recipe.diffusion.T, probabilities(recipe)
    t, factor, bound_factor = draw_noise_levels(name, T, draws, history, p)
    cond = self_conditioned = first_dropout = augment = None
    if recipe.data.labels:
        shares = {"dropout": settings.condition_dropout, "label_dropout": settings.label_dropout}
        cond = load_conditions(data, draws, **shares)
    if settings.augment:
        a = augmentation.parameters(draws, settings.augment, settings.augmentations)
        augment = augmentation.condition(a, settings.augmentations)
    if recipe.network.options.get("self_conditioning", False):
        self_conditioned = torch.from_numpy(draws.uniform("self-conditioning")[:, 0] < 0.5)
        first_dropout = draws.keys("dropout of the estimate")
    keys = draws.keys("dropout"), first_dropout
    return Batch(x0, eps, t, cond, factor, self_conditioned, *keys, bound_factor, augment)


def backward(
    state: TrainingState, objective: Objective, batch: Batch, parts: int, count: int | None = None
) -> Tensor:
    """Set the gradient of the batch's mean loss, computed in equal parts. Return the losses (B,).

    The gradients of the parts are summed in a binary tree over their numbers, so that the sum does
    not depend on which process computes which part. The factors of the batch apply to the gradient,
    but not to the returned losses. count: images in the whole batch. Before the call, `grad` of the
    parameters must be None.
    """
    count = count or len(batch.x0)
    if parts > 1:
        first = 2 ** ((parts - 1).bit_length() - 1)  # the largest power of two below
        rows = first * len(batch.x0) // parts
        parameters = list(state.denoiser.network.parameters())
        losses = backward(state, objective, batch.part(slice(rows)), first, count)
        gradients = [parameter.grad for parameter in parameters]
        state.denoiser.network.zero_grad(set_to_none=True)
        others = backward(state, objective, batch.part(slice(rows, None)), parts - first, count)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
        return torch.cat([losses, others])

    denoiser = state.denoiser
    device = next(denoiser.parameters()).device

    def there(each: Tensor | None) -> Tensor | None:
        return None if each is None else on_device(each, device)

    x0, eps = to_float(on_device(batch.x0, device)), on_device(batch.eps, device)
    t = on_device(batch.t, device)
    cond, factor, self_cond = there(batch.condition()), there(batch.factor), None
    with autocast(device, state.computation.precision):
        if (some := batch.self_conditioned) is not None:
            first = batch.first_dropout
            x_t = denoiser.schedule.add_noise(x0, eps, t)
            with dropout_keys(denoiser.network, None if first is None else there(first[some])):
                self_cond = estimate_x0(denoiser, x_t, t, cond, some)
        with dropout_keys(denoiser.network, there(batch.dropout)):
            more = {"self_cond": self_cond, "bound_factor": there(batch.bound_factor)}
            loss = objective(denoiser, x0, eps, t, cond, **more)
    weighted = loss if factor is None else loss * factor
    state.scaler.scale(weighted.sum() / count).backward()
    return loss.detach()


def train_step(
    state: TrainingState, objective: Objective, batch: Batch, settings: Training
) -> tuple[Tensor, float]:
    """Take one optimiser step. Return the losses (B,), on the CPU, and the gradient norm.

    If a loss or the norm is not finite, weights and buffers do not change, and
    `state.skipped_in_a_row` increases. The result is a function of the batch and the state.
    """
    network = state.denoiser.network
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]  # of batch normalisation
    losses = backward(state, objective, batch, settings.parts)
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
    if clip_norm and norm > clip_norm:
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), clip_norm, total)
    finite = math.isfinite(norm) and bool(torch.isfinite(losses).all())
    if finite:
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return losses, norm, finite


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees, for the next step.

    Otherwise glibc returns it to the system, and the next step gets new pages, each filled with
    zeros after a page fault: 27,000 in a step of `stacked`, a tenth of its time. Without glibc this
    function does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
