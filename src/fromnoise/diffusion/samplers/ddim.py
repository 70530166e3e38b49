"""DDIM, its inversion, and the ordinary differential equation that it solves without noise.

With x̄ = x/α and ρ = σ/α the probability flow is dx̄/dρ = ε̂ (Song, Meng and Ermon 2021,
arXiv:2010.02502, Eq. 14; Karras et al. 2022, arXiv:2206.00364, Eq. 1 with their σ(t) = t, which is
ρ here). Euler's steps are those of DDIM.
"""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule


def ddim(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    eta: float = 0.0,
) -> Iterator[Step]:
    """Sample by x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−ς²) ε̂ + ς z, ς² = η² (1−ᾱ_s)/(1−ᾱ_t) (1−ᾱ_t/ᾱ_s).

    Song, Meng and Ermon 2021 (arXiv:2010.02502), Eqs. 12 and 16. eta = 0 is deterministic, eta = 1
    has the variance of `ddpm` with `small`. Raises ValueError unless 0 ≤ eta ≤ 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, not {eta}")
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        added = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        x = a_s**0.5 * prediction.x0 + max(1 - a_s - added, 0.0) ** 0.5 * prediction.eps
        if added > 0:
            x = x + added**0.5 * noise(t)
        yield Step(t, s, x, prediction.x0)


def ddim_inversion(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int]
) -> Iterator[Step]:
    """Invert `ddim` with eta = 0 from x_0 up to x_T: x_u = √ᾱ_u x̂_0 + √(1−ᾱ_u) ε̂.

    Song, Meng and Ermon 2021 (arXiv:2010.02502): Eq. 12 without noise is an Euler step of the ODE
    in Eq. 14, whose steps may lead to more noise too (sections 4.3 and 5.4). `ddim` on the result
    returns to x up to an error that falls as 1/steps.

    From t to the next kept time u > t, x̂_0 and ε̂ are predicted from x_t. No network is trained at
    t = 0, so the first step takes ε̂ at the first kept time, and x itself as x̂_0.

    x: x_0, (B,C,H,W); times: falling, as for a sampler. A `Step` leads from t to s = u > t.
    """
    for u, t in reversed(steps_between(times, schedule)):
        prediction = denoise(x, t or u)
        x0 = prediction.x0 if t > 0 else x
        a_u = schedule.alpha_bar[u].item()
        x = a_u**0.5 * x0 + (1 - a_u) ** 0.5 * prediction.eps
        yield Step(t, u, x, x0)


def euler(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by Euler steps x̄_s = x̄_t + (ρ_s − ρ_t) ε̂. Order 1.

    This is x_s = α_s x̂_0 + σ_s ε̂, `ddim` without noise: Karras et al. 2022 (arXiv:2206.00364),
    Algorithm 1 without its correction. `noise` is not used.
    """
    yield from ddim(denoise, schedule, x, times, noise=noise)


def heun(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by Euler steps to s, each repeated with the mean of the slopes at both ends. Order 2.

    x̄_s = x̄_t + (ρ_s − ρ_t) (ε̂_t + ε̂_s)/2: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
    Two evaluations a step; only the Euler step if s = 0 or ρ_t > 10 max(1, ρ_s). `noise` is unused.
    """
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x_s = a_s**0.5 * prediction.x0 + (1 - a_s) ** 0.5 * prediction.eps
        # ε̂ bends at ρ about 1 and is straight above. Over a long step from a large ρ_t, as with
        # cosine (ρ_T = 20,000, or ∞ if ᾱ_T = 0), the mean errs by about ρ_t/(4 ρ_s²), Euler by
        # 1/(2 ρ_s).
        if s > 0 and _rho(a_t) <= 10 * max(1.0, _rho(a_s)):
            slope = (prediction.eps + denoise(x_s, s).eps) / 2
            x0 = (x - (1 - a_t) ** 0.5 * slope) / a_t**0.5
            x_s = a_s**0.5 * x0 + (1 - a_s) ** 0.5 * slope
        x = x_s
        yield Step(t, s, x, prediction.x0)


def _rho(alpha_bar: float) -> float:
    """Return σ/α, infinite if ᾱ = 0."""
    return math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar > 0 else math.inf
