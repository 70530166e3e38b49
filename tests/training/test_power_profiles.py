"""The profiles against sums and integrals that are written out."""

import math

import numpy as np
import pytest
from torch import nn

from fromnoise.training.ema import LONGEST, PowerEMA, coefficients, gamma_of, inner_product

hypothesis = pytest.importorskip("hypothesis")
example, given, st = hypothesis.example, hypothesis.given, hypothesis.strategies

lengths = st.floats(0.003, 0.288)


def length_of(gamma: float) -> float:
    """σ_rel = √(γ+1) / ((γ+2) √(γ+3))."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def profile(gamma, t, tau):
    return np.where(tau <= t, (gamma + 1) * (np.minimum(tau, t) / t) ** gamma / t, 0.0)


def integral(values, ends):
    """Of a smooth function on [ends[0], ends[1]], by 200 Gauss-Legendre points."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    half = (ends[1] - ends[0]) / 2
    return half * np.sum(weights * values(half * (nodes + 1) + ends[0]))


# ---- lengths ------------------------------------------------------------------------------------


@given(lengths)
@example(1e-6)
@example(0.28867)
def test_the_exponent_of_a_length_has_that_length(length):
    assert length_of(gamma_of(length)) == pytest.approx(length, rel=1e-12)


@given(st.floats(0.001, 300))
def test_the_length_of_an_exponent_has_that_exponent(gamma):
    assert gamma_of(length_of(gamma)) == pytest.approx(gamma, rel=1e-9, abs=1e-9)


def test_lengths_of_the_paper():
    """σ_rel = 0.05 and 0.10 are γ ≈ 16.97 and 6.94 (section 3.2)."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.1) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 6.94, 40.0])
def test_the_length_is_the_standard_deviation_of_the_profile(gamma):
    mean, square, all_ = (
        integral(lambda x, k=k: x**k * profile(gamma, 1.0, x), (0, 1)) for k in (1, 2, 0)
    )
    assert all_ == pytest.approx(1, rel=1e-6)
    assert length_of(gamma) == pytest.approx(math.sqrt(square - mean**2), rel=1e-6)


@pytest.mark.parametrize("length", [0, -0.1, LONGEST, 0.5, math.nan, math.inf])
def test_what_is_no_length(length):
    with pytest.raises(ValueError, match=r"Give more than 0 and less than 0\.2887\."):
        gamma_of(length)


# ---- weights of a step --------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.2, 6.94, 50.0])
def test_the_recursion_gives_each_step_the_integral_of_the_profile(gamma):
    t, average = 30, PowerEMA(nn.Linear(1, 1), 0.1)
    average.gamma = gamma
    weights = np.zeros(t + 1)
    weights[0] = 1
    for n in range(1, t + 1):
        beta = average.decay_of(n - 1)
        weights *= beta
        weights[n] += 1 - beta
    assert weights[0] == 0
    expected = [integral(lambda x: profile(gamma, t, x), (i - 1, i)) for i in range(1, t + 1)]
    np.testing.assert_allclose(weights[1:], expected, rtol=1e-6, atol=1e-15)


# ---- inner products -----------------------------------------------------------------------------


@given(st.floats(0.5, 60), st.floats(1, 1e6), st.floats(0.5, 60), st.floats(1, 1e6))
@example(2.0, 5.0, 30.0, 5.0)
def test_inner_products_are_the_integrals(gamma, t, other_gamma, other_t):
    def product(x):
        return profile(gamma, t, x) * profile(other_gamma, other_t, x)

    expected = integral(product, (0, min(t, other_t)))
    found = inner_product(gamma, t, other_gamma, other_t)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-12 * inner_product(gamma, t, gamma, t))
    assert found == inner_product(other_gamma, other_t, gamma, t)


def test_long_trainings_and_short_averages_do_not_overflow():
    found = inner_product(gamma_of(1e-4), 1e8, gamma_of(1e-4), [1.0, 5e7, 1e8])
    assert np.isfinite(found).all()
    assert found[-1] > found[0]


# ---- least squares ------------------------------------------------------------------------------


def grid(count, last=1000.0):
    """Snapshots of lengths 0.05 and 0.1 at `count` times: exponents and times, (2·count,)."""
    times = np.repeat(np.arange(1, count + 1) * last / count, 2)
    return np.tile([gamma_of(0.05), gamma_of(0.1)], count), times


@pytest.mark.parametrize("count", [5, 20, 200])
@pytest.mark.parametrize("which", [0, -1, -4])
def test_a_profile_that_is_there_is_itself(count, which):
    gammas, times = grid(count)
    x, error = coefficients(gammas, times, gammas[which], times[which])
    expected = np.zeros(len(times))
    expected[which] = 1
    np.testing.assert_allclose(x, expected, atol=1e-8)
    assert error < 1e-6


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_error_is_that_of_the_profile_and_no_neighbour_has_less(count, length):
    gammas, times = grid(count)
    gamma, t = gamma_of(length), 1000.0
    x, error = coefficients(gammas, times, gamma, t)
    assert x.sum() == pytest.approx(1, abs=1e-9)

    tau = (np.arange(20_000) + 0.5) / 20_000 * t  # midpoints
    target = profile(gamma, t, tau)

    def error_of(some):
        fit = sum(c * profile(g, s, tau) for c, g, s in zip(some, gammas, times, strict=True))
        return math.sqrt(np.mean((fit - target) ** 2) / np.mean(target**2))

    assert error == pytest.approx(error_of(x), rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(3):  # of those with the same sum
        step = rng.normal(size=len(x)) * np.abs(x).mean()
        assert error_of(x + 0.1 * (step - step.mean())) > error


def test_twenty_times_are_enough_for_lengths_about_the_tracked():
    """The default: 1.6 % for 0.2, less between; below 0.02 and above 0.25 it takes more."""
    gammas, times = grid(20)

    def error(length):
        return coefficients(gammas, times, gamma_of(length), 1000.0)[1]

    assert max(error(length) for length in (0.04, 0.06, 0.08, 0.12, 0.15, 0.2)) < 0.016
    assert error(0.02) > 0.05
    assert error(0.28) > 0.05


def test_later_profiles_do_not_matter():
    """They are a multiple of the one at t before it, and orthogonal to all that ends there."""
    gammas, times = grid(20)
    early = times <= 500
    _, error = coefficients(gammas[early], times[early], gamma_of(0.07), 500.0)
    x, same = coefficients(gammas, times, gamma_of(0.07), 500.0)
    assert same == pytest.approx(error, rel=1e-3)
    assert np.abs(x[~early]).max() < 1e-3 < np.abs(x[early]).max()  # 0, but for Σ_i x_i = 1


def test_profiles_that_are_the_same_share_their_coefficient():
    gammas, times = grid(5)
    x, error = coefficients(gammas, times, gamma_of(0.07), 1000.0)
    gammas, times = np.append(gammas, gammas[-1]), np.append(times, times[-1])
    y, same = coefficients(gammas, times, gamma_of(0.07), 1000.0)
    assert same == pytest.approx(error, rel=1e-6)
    np.testing.assert_allclose(np.append(y[:-2], y[-2:].sum()), x, atol=1e-8)
