import numpy as np
import pytest

from fromnoise.evaluation.intervals import mean_interval, share_interval, student_interval


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0, 0.2775), (81, 263, 0.2553, 0.3662)]
)
def test_shares_have_wilsons_interval(hits, n, low, high):
    """The second is an example of Newcombe 1998, table I, method 3."""
    assert share_interval(hits / n, n) == pytest.approx((hits / n, low, high), abs=5e-5)


def test_the_interval_of_a_share_lies_in_0_and_1():
    """Rounding of Wilson's formula made some bounds −2e−19."""
    for n in range(1, 500):
        assert share_interval(0.0, n).low == 0
        assert share_interval(1.0, n).high == 1


def test_few_degrees_of_freedom_widen_the_interval_of_a_share():
    wide = share_interval(0.5, 1000, freedom=4)
    assert wide.high - wide.low == pytest.approx(2 * 2.776 * (0.25 / 1000) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("parts", "quantile"), [(2, 12.706), (10, 2.262), (20, 2.093)])
def test_students_quantiles_are_those_of_the_tables(parts, quantile):
    assert student_interval(5, 1, parts) == pytest.approx((5, 5 - quantile, 5 + quantile), abs=5e-4)


@pytest.mark.parametrize("n", [3, 30])
def test_the_interval_of_a_mean_holds_it_in_95_of_100_repeats(n):
    drawn = np.random.default_rng(0).standard_normal((2000, n))
    found = np.array([mean_interval(values) for values in drawn])
    assert np.mean((found[:, 1] <= 0) & (found[:, 2] >= 0)) == pytest.approx(0.95, abs=0.015)
    np.testing.assert_allclose(found[:, 0], drawn.mean(axis=1), atol=1e-12)
