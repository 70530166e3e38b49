"""Compute 95 % intervals of scores: Student's, Wilson's and by a jackknife."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator

Number = Annotated[
    float, BeforeValidator(lambda x: math.nan if x in (None, math.inf, -math.inf) else x)
]
"""A number of a JSON file, in which null stands for NaN."""


class Interval(NamedTuple):
    """A score and its 95 % interval; all three are NaN if the score is 0/0."""

    value: Number = math.nan
    low: Number = math.nan
    high: Number = math.nan

    def known(self) -> tuple[float, float, float]:
        """Return the three, with the value in place of unknown ends."""
        low, high = (self.value if math.isnan(end) else end for end in (self.low, self.high))
        return self.value, low, high


def _interval(value: Any) -> Any:
    """Return the fields in a JSON file. A number alone has no interval; other keys are ignored."""
    if isinstance(value, Interval):
        return value
    found = value if isinstance(value, Mapping) else {"value": value}
    return {key: found.get(key) for key in Interval._fields}


Score = Annotated[Interval, BeforeValidator(_interval)]
"""An interval of a record, see `records`."""


def student_interval(value: float, error: float, parts: int) -> Interval:
    """Return Student's interval of a value with a standard error estimated from `parts` values."""
    from scipy.stats import t

    margin = float(t.ppf(0.975, parts - 1)) * error
    return Interval(value, value - margin, value + margin)


def mean_interval(values: np.ndarray) -> Interval:
    """Return Student's interval of the mean of independent values, (N,), N ≥ 2."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return student_interval(float(np.mean(values)), error, len(values))


def share_interval(share: float, n: float, *, freedom: float = math.inf) -> Interval:
    """Return Wilson's interval of a share of n (Wilson 1927), with Student's quantile."""
    from scipy.stats import t

    z = float(t.ppf(0.975, freedom))
    middle = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    low, high = (middle - margin) / scale, (middle + margin) / scale
    return Interval(share, max(0.0, min(share, low)), min(1.0, max(share, high)))  # by rounding


def jackknife_error(left_out: np.ndarray) -> float:
    """Return the standard error of a statistic from its values without each of G blocks (G,)."""
    G = len(left_out)
    return math.sqrt((G - 1) / G * np.square(left_out - left_out.mean()).sum())
