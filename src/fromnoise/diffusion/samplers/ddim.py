"""DDIM, its inversion, and the ordinary differential equation that it solves without noise.

With x̄ = x/α and ρ = σ/α the probability flow is dx̄/dρ = ε̂ (Song, Meng and Ermon 2021,
arXiv:2010.02502, Eq. 14; Karras et al. 2022, arXiv:2206.00364, Eq. 1 with their σ(t) = t, which is
ρ here). Euler's steps are those of DDIM.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
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


def ipndm(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    order: Literal[1, 2, 3, 4] = 4,
) -> Iterator[Step]:
    """Sample by x̄_s = x̄_t + (ρ_s − ρ_t) ε', ε' the Adams–Bashforth sum of the last ε̂.

    iPNDM: Zhang and Chen 2022 (arXiv:2204.13902), after the pseudo linear multistep of Liu et al.
    2022 (arXiv:2202.09778). One evaluation a step; `ADAMS_BASHFORTH` has the weights. The first
    steps use the ε̂ so far, so `order` may exceed the number of steps. The first and the last step
    are those of `ddim`; the last ends at x̂_0. `noise` is not used.

    The weights are those of equal steps in ρ. Where ρ_t − ρ_s is the same in all steps, each is
    exact if ε̂ is a polynomial in ρ of degree order − 1, and the error falls with the order until
    the error of the first steps dominates. Elsewhere the measured order is 2 (1 for order 1) if the
    lengths change slowly, as by a rule of timesteps, and 1 if long and short steps alternate.
    Raises ValueError for another order than 1 to 4.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, not {order}")
    known: list[Tensor] = []  # ε̂, the last one first
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        known = [prediction.eps, *known][: order if s > 0 else 1]
        x0, eps = prediction.x0, prediction.eps
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        if len(known) > 1:
            weights = ADAMS_BASHFORTH[len(known) - 1]
            pairs = zip(weights, known, strict=True)
            eps = sum((weight * each for weight, each in pairs), torch.zeros_like(x))
            x0 = (x - (1 - a_t) ** 0.5 * eps) / a_t**0.5
        x = a_s**0.5 * x0 + (1 - a_s) ** 0.5 * eps
        yield Step(t, s, x, prediction.x0)


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the last slopes, the newest first, for a step as long as those before."""


def heun(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    churn: float = 0.0,
    churn_first: int = 1,
    churn_last: int | None = None,
) -> Iterator[Step]:
    """Sample by Euler steps to s, each repeated with the mean of the slopes at both ends. Order 2.

    x̄_s = x̄_t + (ρ_s − ρ_t) (ε̂_t + ε̂_s)/2: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
    Two evaluations a step; only the Euler step if s = 0 or ρ_t > 10 max(1, ρ_s).

    With churn, Algorithm 2: a step from t with churn_first ≤ t ≤ churn_last (None: T) begins at the
    noisier u ≥ t whose ρ_u is nearest to (1 + γ) ρ_t, γ = min(churn/n, √2 − 1) for n steps. It is
    reached by x_u = √(ᾱ_u/ᾱ_t) x_t + √(1 − ᾱ_u/ᾱ_t) z, which is exact (their S_noise is 1); nothing
    is added where u = t, as at T. `Step.x0` is then predicted from x_u. `churn` is their S_churn,
    and the bounds, in t, are their S_tmin and S_tmax. `noise` is used for z only.

    Raises ValueError for a churn below 0, and for bounds without 1 ≤ churn_first ≤ churn_last ≤ T.
    """
    last = schedule.T if churn_last is None else churn_last
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn must be at least 0, not {churn}")
    if not 1 <= churn_first <= last <= schedule.T:
        raise ValueError(
            f"churn_first = {churn_first} and churn_last = {last} must not fall, each in "
            f"1..{schedule.T}"
        )
    steps = steps_between(times, schedule)
    gamma = min(churn / len(steps), 2**0.5 - 1) if steps else 0.0
    for t, s in steps:
        u = _noisier(schedule, t, gamma) if churn_first <= t <= last else t
        a_u, a_s = schedule.alpha_bar[u].item(), schedule.alpha_bar[s].item()
        if u > t:
            kept = a_u / schedule.alpha_bar[t].item()
            x = kept**0.5 * x + (1 - kept) ** 0.5 * noise(t)
        prediction = denoise(x, u)
        x_s = a_s**0.5 * prediction.x0 + (1 - a_s) ** 0.5 * prediction.eps
        # ε̂ bends at ρ about 1 and is straight above. Over a long step from a large ρ_t, as with
        # cosine (ρ_T = 20,000, or ∞ if ᾱ_T = 0), the mean errs by about ρ_t/(4 ρ_s²), Euler by
        # 1/(2 ρ_s).
        if s > 0 and _rho(a_u) <= 10 * max(1.0, _rho(a_s)):
            slope = (prediction.eps + denoise(x_s, s).eps) / 2
            x0 = (x - (1 - a_u) ** 0.5 * slope) / a_u**0.5
            x_s = a_s**0.5 * x0 + (1 - a_s) ** 0.5 * slope
        x = x_s
        yield Step(t, s, x, prediction.x0)


def _noisier(schedule: NoiseSchedule, t: int, gamma: float) -> int:
    """Return the u ≥ t whose ρ_u is nearest to (1 + γ) ρ_t."""
    if gamma == 0 or t == schedule.T:
        return t
    rho = ((1 - schedule.alpha_bar[t:]) / schedule.alpha_bar[t:]).sqrt()  # (T−t+1,)
    return t + int((rho - (1 + gamma) * rho[0]).abs().argmin())


def _rho(alpha_bar: float) -> float:
    """Return σ/α, infinite if ᾱ = 0."""
    return math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar > 0 else math.inf
