"""What is done to a prediction before a sampler uses it: each wraps a denoiser into a denoiser."""

from dataclasses import replace

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Denoiser, Prediction
from fromnoise.diffusion.schedule import Time, per_image


def classifier_free(denoiser: Denoiser, cond: Tensor, scale: float = 1.0) -> Denoise:
    """ε̂ = ε̂_∅ + s·(ε̂_c − ε̂_∅), with s = `scale`; both halves in one doubled batch.

    Ho and Salimans 2022 (arXiv:2207.12598), Eq. 6, where s is written 1 + w. s = 1 is the plain
    conditional prediction and costs one evaluation. x̂_0 and v̂ obey the same formula, being linear
    in ε̂ at one x_t; a learned variance is that of the condition. cond: (B,K) in {−1, 0, +1}; ∅ is
    the zero vector. s ≥ 0, or ValueError.
    """
    if scale < 0:
        raise ValueError(f"guidance must be at least 0 in ε = ε_∅ + s·(ε_c − ε_∅), not {scale:g}")
    both = torch.cat([cond, torch.zeros_like(cond)])

    def guided(x_t: Tensor, t: Time) -> Prediction:
        if scale == 1:
            return denoiser(x_t, t, cond)
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        doubled = denoiser(torch.cat([x_t, x_t]), times, both)
        of_cond, of_nothing = doubled.value.chunk(2)
        return replace(
            doubled,
            value=of_nothing + scale * (of_cond - of_nothing),
            fraction=None if doubled.fraction is None else doubled.fraction[: len(x_t)],
            x_t=x_t,
            alpha=per_image(denoiser.schedule.alpha(t), x_t),
            sigma=per_image(denoiser.schedule.sigma(t), x_t),
        )

    return guided


def clamp_x0(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keep x̂_0 inside the range of images; the mean and ε̂ then follow from the clamped x̂_0."""

    def clamped(x_t: Tensor, t: Time) -> Prediction:
        prediction = denoise(x_t, t)
        return prediction.with_x0(prediction.x0.clamp(low, high))

    return clamped
