"""How fast each deterministic sampler comes to what it solves, with data of which that is known.

With x_0 ~ N(m, c), each number by itself, x̂_0 = E[x_0 | x_t] is known, and so is where the
probability flow takes x_t: (x_s − α_s m)/√(α_s² c + σ_s²) stays the same.
"""

import importlib
import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
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
    ipndm,
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


def by_rho(steps: int) -> list[int]:
    """steps + 1 times from ρ = σ/α = 3, all steps as long in ρ."""
    rho = ((1 - FINE.alpha_bar) / FINE.alpha_bar).sqrt()
    wanted = torch.linspace(3, rho[END].item(), steps + 1, dtype=torch.float64)
    return torch.searchsorted(rho, wanted).tolist()


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


@pytest.mark.parametrize("times", [even, uneven, by_time])
def test_unipc_of_order_3_gains_one_more_where_three_steps_are_left(times):
    def longer(steps: int) -> list[int]:
        return [*times(steps), 1500, 1000]

    third = partial(unipc, order=3)
    error = table(third, longer)
    (least, most), (least_of_many, most_of_many) = {by_time: ((2.5, 4.2), (3.2, 4.2))}.get(
        times, ((3.8, 4.3), (3.7, 4.2))
    )
    assert least < order(error) < most
    assert least_of_many < order(error[-3:]) < most_of_many
    assert all(a < b for a, b in zip(error[1:], table(unipc, longer)[1:], strict=True))
    # the step that ends one before the last is of the lower order
    assert 2.5 < order(table(third, times)[-3:]) < 3.2


IPNDM = {  # for each order, by the line through 64 … 256 steps
    even: [(0.95, 1.05), (1.95, 2.05), (1.95, 2.05), (1.95, 2.05)],
    uneven: [(0.95, 1.05), (0.95, 1.15), (0.95, 1.05), (0.9, 1.1)],
    by_time: [(0.95, 1.05), (1.9, 2.05), (1.9, 2.6), (1.9, 2.6)],
    by_rho: [(0.95, 1.05), (1.9, 2.1), (2.8, 3.2), (2.0, 4.2)],
}


@pytest.mark.parametrize("times", IPNDM)
def test_ipndm_is_of_order_2_at_least_where_the_steps_change_slowly(times):
    for k, (least, most) in enumerate(IPNDM[times], start=1):
        assert least < order(table(partial(ipndm, order=k), times)[-3:]) < most, k


def test_ipndm_of_order_4_falls_by_its_order_until_its_first_steps_are_left():
    error = dict(zip(COUNTS, table(ipndm, by_rho), strict=True))
    assert error[64] < error[16] / 4**4


# ---- what a step is exact for ---------------------------------------------------------------


def along(schedule: NoiseSchedule, kind, value) -> object:
    """A denoiser that knows `value(ρ)` or `value(λ)`, whatever x_t is."""

    def denoise(x_t: Tensor, t: int) -> Prediction:
        a = schedule.alpha_bar[t]
        rho = ((1 - a) / a).sqrt()
        known = value(rho if kind == "eps" else -rho.log())
        return Prediction(kind, known.expand(x_t.shape), x_t, a.sqrt(), (1 - a).sqrt())

    return denoise


def no_noise(t: int) -> Tensor:
    raise AssertionError(t)


ZERO = torch.zeros(1, 1, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_ipndm_is_exact_for_polynomials_in_rho_where_steps_are_equal(k):
    rho = torch.arange(51, dtype=torch.float64) / 10
    schedule = NoiseSchedule(1 - (1 + rho[:-1] ** 2) / (1 + rho[1:] ** 2))
    factors = [0.3, -0.7, 0.2, 0.11, 0.05]
    for degree in range(5):
        polynomial = factors[: degree + 1]

        def value(at, polynomial=polynomial):
            return sum(c * at**n for n, c in enumerate(polynomial))

        def integral(at, polynomial=polynomial):
            return sum(c * at ** (n + 1) / (n + 1) for n, c in enumerate(polynomial))

        steps = list(
            ipndm(
                along(schedule, "eps", value),
                schedule,
                ZERO,
                list(range(50, 0, -5)),
                noise=no_noise,
                order=k,
            )
        )
        off = []
        for before, step in list(pairwise(steps))[k - 2 if k > 1 else 0 : -1]:
            x_t, x_s = (each.x / schedule.alpha_bar[each.s].sqrt() for each in (before, step))
            off.append((x_s - x_t - integral(rho[step.s]) + integral(rho[step.t])).abs().max())
        assert (max(off) < 1e-12) == (degree < k), degree


@pytest.mark.parametrize("times", [[900, 700, 450, 300, 200], [900, 880, 500, 480, 100]])
def test_unipc_of_order_3_is_exact_for_polynomials_in_lambda(schedule, times):
    # x̂_0 a polynomial of degree n in λ: x_s/σ_s − x_t/σ_t is the integral of e^λ x̂_0 over λ, here
    # by 60 points of Gauss. What is predicted is exact to n = 2, and what is corrected to n = 3.
    points, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(60))
    lams = [solvers.half_log_snr(schedule, t) for t in times]
    for degree in range(5):

        def value(at, degree=degree):
            return 0.4 + (at / 2) ** degree

        history = [(lam, value(torch.tensor(lam, dtype=torch.float64))) for lam in lams]
        *before, (lam_s, at_s) = history
        before, lam = before[-3:], before[-1][0]
        h = lam_s - lam
        at = lam + h * (points + 1) / 2
        exact = (weights * (at - lam_s).exp() * value(at)).sum() * h / 2
        share = -math.expm1(-h)  # D = x̂_0 all the way adds α_s (1 − e^{−h}) D
        predicted = solvers.predicted(before, lam_s)
        corrected = solvers.corrected(before, lam_s, at_s)
        assert (abs(share * predicted - exact) < 1e-12) == (degree < 3), degree
        assert (abs(share * corrected - exact) < 1e-12) == (degree < 4), degree


def test_what_unipc_of_order_2_corrects_is_the_interpolated_of_two_points():
    lams = torch.tensor([-1.0, -0.3, 0.5], dtype=torch.float64)
    history = list(zip(lams.tolist(), lams.sin(), strict=True))
    *before, (lam_s, at_s) = history
    torch.testing.assert_close(
        solvers.corrected(before, lam_s, at_s),
        solvers.interpolated(history, -0.3, lam_s),
        rtol=1e-14,
        atol=0,
    )


@pytest.mark.parametrize("k", [-30.0, -1.0001, -0.9999, -1e-3, -1e-9])
def test_phi_is_the_integral_that_it_stands_for(k):
    # φ_m(k) = ∫ e^{(1−u) k} u^{m−1}/(m−1)! du from 0 to 1
    points, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(60))
    u = (points + 1) / 2
    assert solvers.phi(0, k) == pytest.approx(math.exp(k), rel=1e-14)
    for m in range(1, 5):
        integrand = ((1 - u) * k).exp() * u ** (m - 1) / math.factorial(m - 1)
        expected = (weights * integrand).sum().item() / 2
        assert solvers.phi(m, k) == pytest.approx(expected, rel=1e-11), m


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
