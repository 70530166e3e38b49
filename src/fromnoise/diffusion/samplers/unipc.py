"""UniPC: the step of DPM-Solver++(2M), corrected by the evaluation of the next step.

Zhao et al. 2023 (arXiv:2302.04867), for x̂_0, with p = 2 and B(h) = e^{−h} − 1 (their B_2).
"""

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers.dpm_solver import half_log_snr, of_step
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule


def unipc(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int], *, noise: Noise
) -> Iterator[Step]:
    """Sample by x_s = σ_s/σ_t x_t − α_s (e^{−h} − 1) D, D first `predicted`, then `corrected`.

    Zhao et al. 2023 (arXiv:2302.04867), their UniP-2 and UniC-2 for x̂_0. The network sees the
    predicted x_s, and the next step starts from the corrected one: one evaluation a step, and
    measured order 3. The last step is not corrected. x: x_T, (B,C,H,W); times: falling, each in
    {1..T}. `noise` is not used.
    """
    history: list[tuple[float, Tensor]] = []  # (λ, x̂_0) of the last two times
    arrive = None  # D → x at the current time
    for t, s in steps_between(times, schedule):
        x0 = denoise(x, t).x0
        lam, lam_s = half_log_snr(schedule, t), half_log_snr(schedule, s)
        if arrive is not None:
            x = arrive(corrected(history, lam, x0))
        history = [*history[-1:], (lam, x0)]
        arrive = _stepper(schedule, x, t, s, lam_s - lam)
        x = arrive(x0 if s == 0 else predicted(history, lam_s))
        yield Step(t, s, x, x0)


def predicted(history: Sequence[tuple[float, Tensor]], lam_s: float) -> Tensor:
    """Return D = x̂_0 + D_1/2, D_1 = (x̂_0 − x̂_0 before)·h/h_before, or x̂_0 at the first step."""
    lam, x0 = history[-1]
    if len(history) == 1:
        return x0
    lam_before, before = history[-2]
    return x0 + (x0 - before) * ((lam_s - lam) / (2 * (lam - lam_before)))


def corrected(history: Sequence[tuple[float, Tensor]], lam_s: float, x0_s: Tensor) -> Tensor:
    """Return D = x̂_0 + c_1 D_1 + c_2 (x̂_0 at s − x̂_0), which uses the end of the step too.

    c_1 and c_2 solve c_1 + c_2 = b_1 and r c_1 + c_2 = b_2, r = −h_before/h, D_1 the difference to
    x̂_0 before, divided by r, with b_1 = (φ/k − 1)/φ and b_2 = 2 ((φ/k − 1)/k − 1/2)/φ, k = −h and
    φ = e^k − 1. At the first step c_1 = 0 and c_2 = 1/2.
    """
    lam, x0 = history[-1]
    if len(history) == 1:
        return x0 + (x0_s - x0) / 2
    lam_before, before = history[-2]
    k, r = lam - lam_s, (lam_before - lam) / (lam_s - lam)
    phi = math.expm1(k)
    b_1 = (phi / k - 1) / phi
    b_2 = 2 * ((phi / k - 1) / k - 0.5) / phi
    c_1 = (b_1 - b_2) / (1 - r)
    return x0 + c_1 / r * (before - x0) + (b_1 - c_1) * (x0_s - x0)


def _stepper(
    schedule: NoiseSchedule, x: Tensor, t: int, s: int, h: float
) -> Callable[[Tensor], Tensor]:
    """Return the function D → x_s of the step from x at t."""
    alpha_s, sigma_s, sigma_t = of_step(schedule, t, s)
    return lambda D: sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * D
