"""How fast each deterministic sampler comes to what it solves, with data of which that is known.

With x_0 ~ N(m, c), each number by itself, x̂_0 = E[x_0 | x_t] is known, and so is where the
probability flow takes x_t: (x_s − α_s m)/√(α_s² c + σ_s²) stays the same.
"""

import importlib
import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fromnoise.diffusion import (
    SAMPLERS,
    NoiseSchedule,
    Prediction,
    Step,
    dpmpp,
    heun,
    sampling_timesteps,
    unipc,
)

solvers = importlib.import_module("fromnoise.diffusion.samplers.dpm_solver")

MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
VARIANCE = torch.tensor([0.06, 0.4, 0.8], dtype=torch.float64)
COUNTS = [8, 16, 32, 64, 128, 256]

# So many times that rounding to them costs little, down to 0.6 % of noise in the variance.
FINE = NoiseSchedule.named("linear_rescaled", 100_000)
END = 2_000


def denoise_with(schedule: NoiseSchedule):
    """x̂_0 = m + α c (x_t − α m)/(α² c + σ²), for x_t (B,3,1,1)."""

    def denoise(x_t: Tensor, t: int) -> Prediction:
        a = schedule.alpha_bar[t]
        x0 = MEAN + a.sqrt() * VARIANCE / variance_at(schedule, t) * (
            x_t[:, :, 0, 0] - a.sqrt() * MEAN
        )
        return Prediction("x0", x0[:, :, None, None], x_t, a.sqrt(), (1 - a).sqrt())

    return denoise


def variance_at(schedule: NoiseSchedule, t: int) -> Tensor:
    """That of x_t, (3,)."""
    a = schedule.alpha_bar[t]
    return a * VARIANCE + 1 - a


def errors(sampler, schedule: NoiseSchedule, times: list[int]) -> Iterator[tuple[int, float]]:
    """(s, √E‖x_s − x(s)‖²) after each step, over the x_T that there are, x(s) the exact flow.

    Each number of x_s is affine in that number of x_T: two probes say how.
    """
    T = times[0]
    start = schedule.alpha_bar[T].sqrt() * MEAN
    probes = torch.stack([start, start + variance_at(schedule, T).sqrt()])[:, :, None, None]

    def no_noise(t: int) -> Tensor:
        return torch.zeros_like(probes)

    for step in sampler(denoise_with(schedule), schedule, probes, times, noise=no_noise):
        of_mean, of_one_std = step.x[:, :, 0, 0]
        bias = of_mean - schedule.alpha_bar[step.s].sqrt() * MEAN
        std = of_one_std - of_mean
        spread = std - variance_at(schedule, step.s).sqrt()
        yield step.s, (bias.square() + spread.square()).sum().sqrt().item()


def kept(share: Tensor) -> list[int]:
    """The times of FINE at these shares of the way in log SNR from T to END; share: (steps+1,)."""
    log_snr = FINE.alpha_bar[1:].log() - (1 - FINE.alpha_bar[1:]).log()
    wanted = log_snr[-1] + share * (log_snr[END - 1] - log_snr[-1])
    return (FINE.T - torch.searchsorted(log_snr.flip(0), wanted)).tolist()


def even(steps: int) -> list[int]:
    """steps + 1 times, all steps as long in log SNR."""
    return kept(torch.linspace(0, 1, steps + 1, dtype=torch.float64))


def uneven(steps: int) -> list[int]:
    """steps + 1 times, every second step twice as long in log SNR as the ones beside it."""
    lengths = torch.tensor([0.0] + [1.0, 2.0] * (steps // 2), dtype=torch.float64)
    return kept(lengths.cumsum(0) / lengths.sum())


def by_time(steps: int) -> list[int]:
    """steps + 1 times, even in t itself: about `trailing`."""
    return torch.linspace(FINE.T, END, steps + 1, dtype=torch.float64).round().int().tolist()


def table(sampler, times=even) -> list[float]:
    """The errors at s = END, for each of COUNTS. The step to s = 0, of infinite λ, has no order."""
    return [dict(errors(sampler, FINE, times(steps)))[END] for steps in COUNTS]


def order(error: list[float]) -> float:
    """p of the straight line nearest to log error = −p log steps, for the last of COUNTS."""
    n = torch.tensor(COUNTS[-len(error) :], dtype=torch.float64).log()
    e = torch.tensor(error, dtype=torch.float64).log()
    n, e = n - n.mean(), e - e.mean()
    return -((n * e).sum() / n.square().sum()).item()


# ---- the order ------------------------------------------------------------------------------

# The lines through 8 … 256 steps and through 64 … 256: few steps are not yet of any order.
ORDERS = {
    "ddim": ((0.9, 1.1), (0.95, 1.05)),
    "euler": ((0.9, 1.1), (0.95, 1.05)),
    "heun": ((1.9, 2.2), (1.95, 2.1)),
    "dpm++": ((1.6, 2.1), (1.9, 2.1)),
    "unipc": ((2.1, 3.1), (2.6, 3.1)),  # what is corrected gains an order on what is predicted
}


@pytest.mark.parametrize("times", [even, uneven, by_time])
@pytest.mark.parametrize("name", ORDERS)
def test_the_error_falls_with_the_order_of_the_sampler(name, times):
    error = table(SAMPLERS[name], times)
    assert all(more < less for less, more in pairwise(error))
    (least, most), (least_of_many, most_of_many) = ORDERS[name]
    assert least < order(error) < most
    assert least_of_many < order(error[-3:]) < most_of_many


def test_a_higher_order_pays_from_16_steps_on():
    first, *second = [table(SAMPLERS[name])[1:] for name in ("euler", "heun", "dpm++", "unipc")]
    for error in second:
        assert all(a < b / 3 for a, b in zip(error, first, strict=True))


# ---- the end, and faults that the order must show -------------------------------------------


@pytest.mark.parametrize("name", ORDERS)
def test_the_last_step_costs_about_the_noise_that_it_takes_away(name):
    # To s = 0 the flow leads to m + √(c/(α² c + σ²)) (x − α m), the mean of x_0 to α √ of that
    # product: for c ≫ σ² they differ by σ²/(2c) of a standard deviation, for any sampler.
    times = even(256)
    found = dict(errors(SAMPLERS[name], FINE, times))[0]
    a = FINE.alpha_bar[END]
    exact = VARIANCE.sqrt() * (1 - (a * VARIANCE / (a * VARIANCE + 1 - a)).sqrt())
    before = dict(errors(SAMPLERS[name], FINE, times))[END]
    assert abs(found - exact.norm().item()) < 1.05 * before


def second_order_multistep(weight):
    """`dpmpp` re-stated with D = x̂_0 + (x̂_0 − x̂_0 before)·weight(h, h_before)."""

    def sampler(denoise, schedule, x, times, *, noise) -> Iterator[Step]:
        before, h_before = None, math.inf
        for t, s in pairwise([*times, 0]):
            x0, (a, b) = denoise(x, t).x0, schedule.alpha_bar[[t, s]].tolist()
            if s == 0:
                return
            h = math.log(b / (1 - b) * (1 - a) / a) / 2
            D = x0 if before is None else x0 + (x0 - before) * weight(h, h_before)
            x = math.sqrt((1 - b) / (1 - a)) * x + math.sqrt(b) * (1 - math.exp(-h)) * D
            before, h_before = x0, h
            yield Step(t, s, x, x0)

    return sampler


def test_faults_of_the_second_order_term_are_seen():
    right = table(second_order_multistep(lambda h, h_before: h / (2 * h_before)), uneven)
    assert right == pytest.approx(table(dpmpp, uneven), rel=1e-6)
    for fault in (
        lambda h, h_before: 0,
        lambda h, h_before: h / h_before,
        lambda h, h_before: 1 / 2,
    ):
        error = table(second_order_multistep(fault), uneven)
        assert 0.8 < order(error[-3:]) < 1.2


def test_faults_of_unipc_are_seen(monkeypatch):
    def found() -> float:
        return order(table(unipc, uneven)[-3:])

    with monkeypatch.context() as patch:
        patch.setattr(solvers, "predicted", lambda history, lam: history[-1][1])
        assert found() < 2.2
    with monkeypatch.context() as patch:
        patch.setattr(solvers, "corrected", lambda history, lam, x0: x0)
        assert found() < 1.2


# ---- a leap from nearly nothing -------------------------------------------------------------


@pytest.mark.parametrize("timesteps", ["trailing", "linspace", "quadratic"])
@pytest.mark.parametrize("name", ["cosine", "sigmoid"])
def test_heun_survives_a_schedule_that_ends_with_nearly_no_image(name, timesteps):
    # ρ = σ/α falls from 3,000 or 20,000 to about 10 in the first of 20 steps. With the mean of the
    # two slopes there, the end would be wrong by several standard deviations, or by dozens.
    schedule = NoiseSchedule.named(name, 1000)
    times = sampling_timesteps(schedule, 20, timesteps)
    by_heun, by_euler = (
        [error for _, error in errors(sampler, schedule, times)][-1]
        for sampler in (heun, SAMPLERS["euler"])
    )
    assert by_heun < by_euler / 2
