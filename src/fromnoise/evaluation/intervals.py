"""Scores with their 95 % intervals."""

import math
from typing import NamedTuple

import numpy as np

Z = 1.959964  # the normal distribution's 0.975 quantile


class Interval(NamedTuple):
    """A score and its 95 % interval; all three are NaN where the score is 0/0."""

    value: float
    low: float
    high: float


def student_interval(value: float, error: float, parts: int) -> Interval:
    """Student's interval of a value whose standard error was estimated from so many parts."""
    from scipy.stats import t

    margin = float(t.ppf(0.975, parts - 1)) * error
    return Interval(value, value - margin, value + margin)


def mean_interval(values: np.ndarray) -> Interval:
    """Student's interval of the mean of independent values, (N,), N ≥ 2."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return student_interval(float(np.mean(values)), error, len(values))


def share_interval(share: float, n: int) -> Interval:
    """Wilson's interval of a share of n (Wilson 1927)."""
    middle = share + Z * Z / (2 * n)
    margin = Z * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    scale = 1 + Z * Z / n
    return Interval(share, (middle - margin) / scale, (middle + margin) / scale)
