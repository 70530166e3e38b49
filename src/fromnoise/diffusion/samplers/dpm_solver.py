"""DPM-Solver++ with the memory of one step: Lu et al. 2022 (arXiv:2211.01095).

λ = log(α/σ) runs from small to large, to ∞ at t = 0, and h = λ_s − λ_t. Between two times the
solvers approximate x̂_0 as linear in λ and integrate the rest of the equation exactly.
"""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule


def dpmpp(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by x_s = σ_s/σ_t x_t − α_s (e^{−h} − 1) D: DPM-Solver++(2M), Algorithm 2 of the paper.

    D = x̂_0 + (x̂_0 − x̂_0 before)·h/(2 h before); the first step and the last use D = x̂_0. Order 2
    for one evaluation a step. x: x_T, (B,C,H,W); times: falling, each in {1..T}. `noise` is unused.
    """
    before, h_before = None, math.inf
    for t, s in steps_between(times, schedule):
        x0 = denoise(x, t).x0
        alpha_s, sigma_s, sigma_t = of_step(schedule, t, s)
        h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
        D = x0 if before is None or s == 0 else x0 + (x0 - before) * (h / (2 * h_before))
        x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * D
        before, h_before = x0, h
        yield Step(t, s, x, x0)


def dpmpp_sde(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample the reverse process with noise, by second-order steps: SDE-DPM-Solver++(2M).

    x_s = σ_s/σ_t e^{−h} x_t + α_s (1 − e^{−2h}) D + σ_s √(1 − e^{−2h}) z, D as in `dpmpp`.
    x: x_T, (B,C,H,W); times: falling, each in {1..T}.
    """
    before, h_before = None, math.inf
    for t, s in steps_between(times, schedule):
        x0 = denoise(x, t).x0
        alpha_s, sigma_s, sigma_t = of_step(schedule, t, s)
        h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
        D = x0 if before is None or s == 0 else x0 + (x0 - before) * (h / (2 * h_before))
        fresh = -math.expm1(-2 * h)  # the share of the noise at s that is new
        x = sigma_s / sigma_t * math.exp(-h) * x + alpha_s * fresh * D
        if s > 0:
            x = x + sigma_s * fresh**0.5 * noise(t)
        before, h_before = x0, h
        yield Step(t, s, x, x0)


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
