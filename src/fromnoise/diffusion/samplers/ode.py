"""The probability flow as an ordinary differential equation, solved by Euler and by Heun.

With x̄ = x/α and ρ = σ/α it is dx̄/dρ = ε̂ (Karras et al. 2022, arXiv:2206.00364, Eq. 1 with
their σ(t) = t, which is ρ here; Song, Meng and Ermon 2021, arXiv:2010.02502, Eq. 14).
"""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers.ddim import ddim
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule

LEAP = 10.0
"""A step from ρ > LEAP · max(1, ρ_s) is too long for the mean of two slopes."""


def euler(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by Euler steps x̄_s = x̄_t + (ρ_s − ρ_t) ε̂. Order 1.

    This is x_s = α_s x̂_0 + σ_s ε̂, `ddim` without noise: Karras et al. 2022 (arXiv:2206.00364),
    Algorithm 1 without its correction. x: x_T, (B,C,H,W);
    times: falling, each in {1..T}. `noise` is not used.
    """
    yield from ddim(denoise, schedule, x, times, noise=noise)


def heun(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by Euler steps to s, each repeated with the mean of the slopes at both ends. Order 2.

    x̄_s = x̄_t + (ρ_s − ρ_t) (ε̂_t + ε̂_s)/2: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
    Two evaluations a step; only the Euler step if s = 0 or ρ_t > 10 max(1, ρ_s).
    x: x_T, (B,C,H,W); times: falling, each in {1..T}. `noise` is not used.
    """
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x_s = a_s**0.5 * prediction.x0 + (1 - a_s) ** 0.5 * prediction.eps
        # ε̂ bends at ρ about 1 and is straight above. Over a long step from a large ρ_t, as with
        # cosine (ρ_T = 20,000, or ∞ if ᾱ_T = 0), the mean errs by about ρ_t/(4 ρ_s²), Euler by
        # 1/(2 ρ_s).
        if s > 0 and _rho(a_t) <= LEAP * max(1.0, _rho(a_s)):
            slope = (prediction.eps + denoise(x_s, s).eps) / 2
            x0 = (x - (1 - a_t) ** 0.5 * slope) / a_t**0.5
            x_s = a_s**0.5 * x0 + (1 - a_s) ** 0.5 * slope
        x = x_s
        yield Step(t, s, x, prediction.x0)


def _rho(alpha_bar: float) -> float:
    """Return σ/α, infinite if ᾱ = 0."""
    return math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar > 0 else math.inf
