"""Multistep solvers: DPM-Solver++, and UniPC, which corrects each step by the next evaluation.

Lu et al. 2022 (arXiv:2211.01095); Zhao et al. 2023 (arXiv:2302.04867), for x̂_0, with p = 2 or 3
and B(h) = e^{−h} − 1 (their B_2).

λ = log(α/σ) runs from small to large, to ∞ at t = 0, and h = λ_s − λ_t. Between two times the
solvers approximate x̂_0 as a polynomial in λ and integrate the rest of the equation exactly.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule

History = list[tuple[float, Tensor]]
"""(λ, x̂_0) of the last times, at most as many as the order."""


def dpmpp(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by x_s = σ_s/σ_t x_t − α_s (e^{−h} − 1) D: DPM-Solver++(2M), Algorithm 2 of the paper.

    D is `predicted`. Order 2 for one evaluation a step. `noise` is not used.
    """
    yield from _solve(denoise, schedule, x, times, order=2, correct=False)


def dpmpp_sde(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample the reverse process with noise, by second-order steps: SDE-DPM-Solver++(2M).

    x_s = σ_s/σ_t e^{−h} x_t + α_s (1 − e^{−2h}) D + σ_s √(1 − e^{−2h}) z, D as in `dpmpp`.
    """
    history: History = []
    for t, s in steps_between(times, schedule):
        x0 = denoise(x, t).x0
        lam, lam_s = half_log_snr(schedule, t), half_log_snr(schedule, s)
        history = [*history[-1:], (lam, x0)]
        D = predicted(history, lam_s)
        alpha_s, sigma_s, sigma_t = of_step(schedule, t, s)
        h = lam_s - lam
        fresh = -math.expm1(-2 * h)  # the share of the noise at s that is new
        x = sigma_s / sigma_t * math.exp(-h) * x + alpha_s * fresh * D
        if s > 0:
            x = x + sigma_s * fresh**0.5 * noise(t)
        yield Step(t, s, x, x0)


def unipc(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    order: Literal[2, 3] = 2,
) -> Iterator[Step]:
    """Sample by x_s = σ_s/σ_t x_t − α_s (e^{−h} − 1) D, D first `predicted`, then `corrected`.

    Zhao et al. 2023 (arXiv:2302.04867), their UniP-p and UniC-p for x̂_0, p = order. The network
    sees the predicted x_s, and the next step starts from the corrected one: one evaluation a step,
    and measured order p + 1. A step uses as many x̂_0 as it knows, and no more than there are steps
    left: the first step is of p = 1, and so is the last, which is not corrected. `noise` is not
    used. Raises ValueError for another order than 2 and 3.
    """
    if order not in (2, 3):
        raise ValueError(f"order must be 2 or 3, not {order}")
    yield from _solve(denoise, schedule, x, times, order=order, correct=True)


def _solve(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    order: int,
    correct: bool,
) -> Iterator[Step]:
    history: History = []
    start = None  # (x, t) of the step that led here
    steps = steps_between(times, schedule)
    for i, (t, s) in enumerate(steps):
        x0 = denoise(x, t).x0
        lam = half_log_snr(schedule, t)
        if start is not None and correct:
            x = exact_step(schedule, *start, t, corrected(history, lam, x0))
        history, start = [*history, (lam, x0)][-min(order, len(steps) - i) :], (x, t)
        x = exact_step(schedule, x, t, s, predicted(history, half_log_snr(schedule, s)))
        yield Step(t, s, x, x0)


def predicted(history: History, lam_s: float) -> Tensor:
    """Return D = x̂_0 + D_1/2, D_1 = (x̂_0 − x̂_0 before)·h/h_before.

    In the first step, and in the last, where λ_s = ∞, D = x̂_0. With three x̂_0, D is `interpolated`.
    """
    lam, x0 = history[-1]
    if len(history) == 1 or lam_s == math.inf:
        return x0
    if len(history) > 2:
        return interpolated(history, lam, lam_s)
    lam_before, before = history[-2]
    return x0 + (x0 - before) * ((lam_s - lam) / (2 * (lam - lam_before)))


def corrected(history: History, lam_s: float, x0_s: Tensor) -> Tensor:
    """Return D = x̂_0 + c_1 D_1 + c_2 (x̂_0 at s − x̂_0), which uses the end of the step too.

    c_1 and c_2 solve c_1 + c_2 = b_1 and r c_1 + c_2 = b_2, r = −h_before/h, D_1 the difference to
    x̂_0 before, divided by r, with b_1 = (φ/k − 1)/φ and b_2 = 2 ((φ/k − 1)/k − 1/2)/φ, k = −h and
    φ = e^k − 1. At the first step c_1 = 0 and c_2 = 1/2. With three x̂_0, D is `interpolated`.
    """
    lam, x0 = history[-1]
    if len(history) == 1:
        return x0 + (x0_s - x0) / 2
    if len(history) > 2:
        return interpolated([*history, (lam_s, x0_s)], lam, lam_s)
    lam_before, before = history[-2]
    k, r = lam - lam_s, (lam_before - lam) / (lam_s - lam)
    phi = math.expm1(k)
    b_1 = (phi / k - 1) / phi
    b_2 = 2 * ((phi / k - 1) / k - 0.5) / phi
    c_1 = (b_1 - b_2) / (1 - r)
    return x0 + c_1 / r * (before - x0) + (b_1 - c_1) * (x0_s - x0)


def interpolated(points: History, lam: float, lam_s: float) -> Tensor:
    """Return D = x̂_0 + Σ_m c_m/r_m (x̂_m − x̂_0), exact if x̂_0 is a polynomial through the points.

    x̂_0 is that at λ, and r_m = (λ_m − λ)/h of every other point. The c_m solve Σ_m r_m^{j−1} c_m =
    b_j for j = 1, 2, …, with b_j = j! φ_{j+1}(−h)/φ_1(−h). A point at λ = −∞ has no weight.
    """
    x0 = next(each for at, each in points if at == lam)
    others = [(at, each) for at, each in points if at != lam and at > -math.inf]
    k = lam - lam_s
    r = torch.tensor([(at - lam) / (lam_s - lam) for at, _ in others], dtype=torch.float64)
    j = range(1, len(others) + 1)
    powers = torch.stack([r ** (n - 1) for n in j])
    b = r.new_tensor([math.factorial(n) * phi(n + 1, k) / phi(1, k) for n in j])
    weights = (torch.linalg.solve(powers, b) / r).tolist()
    return sum((w * (each - x0) for w, (_, each) in zip(weights, others, strict=True)), x0)


def phi(m: int, k: float) -> float:
    """Return φ_m(k) = Σ_j k^j/(j+m)!, also (φ_{m−1}(k) − 1/(m−1)!)/k, and φ_0 = e^k."""
    if abs(k) < 1:  # where the quotient would be rounding error
        return sum(k**j / math.factorial(j + m) for j in range(18))
    return math.exp(k) if m == 0 else (phi(m - 1, k) - 1 / math.factorial(m - 1)) / k


def exact_step(schedule: NoiseSchedule, x: Tensor, t: int, s: int, D: Tensor) -> Tensor:
    """Return x_s = σ_s/σ_t x_t − α_s (e^{−h} − 1) D, exact if x̂_0 = D during the whole step."""
    alpha_s, sigma_s, sigma_t = of_step(schedule, t, s)
    h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
    return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * D


def half_log_snr(schedule: NoiseSchedule, t: int) -> float:
    """Return λ_t = log(α_t/σ_t): ∞ at t = 0, and −∞ if ᾱ_t = 0."""
    a = schedule.alpha_bar[t].item()
    if a in (0, 1):
        return math.inf if a else -math.inf
    return (math.log(a) - math.log1p(-a)) / 2


def of_step(schedule: NoiseSchedule, t: int, s: int) -> tuple[float, float, float]:
    """Return α_s, σ_s and σ_t."""
    a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    return a_s**0.5, (1 - a_s) ** 0.5, (1 - a_t) ** 0.5
