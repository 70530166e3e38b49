"""Guidance, and limits of x̂_0: each function wraps a denoiser and returns another."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Denoiser, Prediction
from fromnoise.diffusion.schedule import Time, per_image


def classifier_free(
    denoiser: Denoiser,
    cond: Tensor,
    scale: float = 1.0,
    *,
    interval: tuple[int, int] | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """Guide by ε̂ = ε̂_∅ + s·(ε̂_c − ε̂_∅), with s = `scale`, in one doubled batch.

    Ho and Salimans 2022 (arXiv:2207.12598), Eq. 6, where s is written 1 + w. s = 1 is the plain
    conditional prediction and costs one evaluation. Other predictions obey the same
    formula, since they are affine in ε̂ at one x_t. A learned variance is that of the condition.
    s < 0 guides away from the condition. cond: (B,K) in {−1, 0, +1}; ∅ is the zero vector.

    interval: (first, last) t with guidance; s = 1 at all others (Kynkäänniemi et al. 2024,
    arXiv:2404.07724, there of noise levels). rescale: φ ∈ [0, 1] of `rescaled`; 0 is off.
    """
    first, last = interval or (0, denoiser.schedule.T)
    strong = torch.tensor(scale, dtype=torch.float64)

    def guided(x_t: Tensor, t: Time) -> Prediction:
        time = torch.as_tensor(t).cpu()
        s = torch.where((first <= time) & (time <= last), strong, 1.0)
        if (s == 1).all():
            return denoiser(x_t, t, cond)
        given, free = _in_one_batch(denoiser, x_t, t, [cond, torch.zeros_like(cond)])
        value = free.value + per_image(s, x_t) * (given.value - free.value)
        return replace(given, value=rescaled(value, given.value, rescale))

    return guided


def composed(denoiser: Denoiser, conds: Sequence[Tensor], weights: Sequence[float]) -> Denoise:
    """Compose M conditions by ε̂ = ε̂_∅ + Σ_m w_m·(ε̂_m − ε̂_∅), all in one batch.

    Liu et al. 2022 (arXiv:2206.01714), Eq. 11; a negative weight guides away from its condition
    (their Eq. 13). One condition with w = s is `classifier_free`. A learned variance is the mean of
    the conditions'. conds: M ≥ 1 of (B,K) in {−1, 0, +1}.
    """
    if not conds or len(conds) != len(weights):
        raise ValueError(f"each condition needs one weight: {len(conds)} and {len(weights)}")

    def mean(learned: list[Tensor | None]) -> Tensor | None:
        known = [each for each in learned if each is not None]
        return torch.stack(known).mean(dim=0) if known else None

    def guided(x_t: Tensor, t: Time) -> Prediction:
        *given, free = _in_one_batch(denoiser, x_t, t, [*conds, torch.zeros_like(conds[0])])
        value = free.value.clone()
        for weight, each in zip(weights, given, strict=True):
            value += weight * (each.value - free.value)
        return replace(
            free,
            value=value,
            fraction=mean([each.fraction for each in given]),
            log_variance=mean([each.log_variance for each in given]),
        )

    return guided


def autoguided(denoise: Denoise, weak: Denoise, scale: float) -> Denoise:
    """Guide away from a weaker model by ε̂ = ε̂_weak + s·(ε̂ − ε̂_weak), with s = `scale`.

    Karras et al. 2024 (arXiv:2406.02507), there for x̂_0, which obeys the same formula at one x_t.
    The weaker model needs the same schedule, as an earlier checkpoint has, and gets the same
    condition. s = 1 is off. s ≥ 0, or ValueError. A learned variance is that of the stronger model.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(
            f"the scale s in ε = ε_weak + s·(ε − ε_weak) must be at least 0, not {scale:g}"
        )
    if scale == 1:
        return denoise

    def guided(x_t: Tensor, t: Time) -> Prediction:
        prediction, weaker = denoise(x_t, t), weak(x_t, t)
        value = weaker.value
        if (weaker.kind, weaker.sigma_data) != (prediction.kind, prediction.sigma_data):
            value = prediction.value_of(weaker.x0, weaker.eps)
        return replace(prediction, value=value + scale * (prediction.value - value))

    return guided


def rescaled(value: Tensor, conditional: Tensor, phi: float) -> Tensor:
    """Return φ·value·std(conditional)/std(value) + (1 − φ)·value, against overexposed images.

    Lin et al. 2024 (arXiv:2305.08891), Eqs. 15–16. std is over all elements of an image. value,
    conditional: the prediction with and without guidance, (B,C,H,W). φ ∈ [0, 1], or ValueError.
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"guidance_rescale must lie between 0 and 1, not {phi:g}")
    if phi == 0:
        return value
    target, std = conditional.flatten(1).std(dim=1), value.flatten(1).std(dim=1)
    ratio = torch.where(std > 0, target / std, 1)  # an untrained network may return a constant
    return value * per_image(phi * ratio + (1 - phi), value)


def _in_one_batch(
    denoiser: Denoiser, x_t: Tensor, t: Time, conds: Sequence[Tensor]
) -> list[Prediction]:
    """Predict at the same (x_t, t) under each of M conditions, by one batch of M·B images."""
    m = len(conds)
    times = t.repeat(m) if isinstance(t, Tensor) and t.ndim else t
    batch = denoiser(x_t.repeat(m, 1, 1, 1), times, torch.cat(list(conds)))

    def parts(x: Tensor | None) -> list[Any]:
        """Split by condition; a coefficient of all images is repeated."""
        return [x] * m if x is None or not x.ndim else list(x.chunk(m))

    fields = ("value", "x_t", "alpha", "sigma", "fraction", "log_variance")
    columns = [parts(getattr(batch, name)) for name in fields]
    parts_of = [dict(zip(fields, each, strict=True)) for each in zip(*columns, strict=True)]
    return [replace(batch, **each) for each in parts_of]


def clamp_x0(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clamp x̂_0 to the range of images; the mean and ε̂ follow from the clamped x̂_0."""

    def clamped(x_t: Tensor, t: Time) -> Prediction:
        prediction = denoise(x_t, t)
        return prediction.with_x0(prediction.x0.clamp(low, high))

    return clamped


def dynamic_threshold(
    denoise: Denoise, low: float = -1.0, high: float = 1.0, *, percentile: float = 0.995
) -> Denoise:
    """Replace x̂_0 by clip(x̂_0, −q, q)/q, q = max(1, the percentile of |x̂_0| in each image).

    Saharia et al. 2022 (arXiv:2205.11487), section 2.3, for images in [−1, 1]: if strong guidance
    drives many pixels out of range, all move inwards and keep their contrast. Other ranges
    [low, high] are first mapped to that one. percentile ∈ (0, 1).
    """
    middle, half = (high + low) / 2, (high - low) / 2

    def thresholded(x_t: Tensor, t: Time) -> Prediction:
        prediction = denoise(x_t, t)
        x0 = (prediction.x0 - middle) / half
        q = x0.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1)
        q = per_image(q, x0)
        return prediction.with_x0(x0.clamp(-q, q) / q * half + middle)

    return thresholded
