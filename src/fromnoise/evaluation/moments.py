"""Mean and covariance of features, summed up part by part: what a Fréchet distance needs."""

from functools import reduce
from typing import NamedTuple

import numpy as np

AT_A_TIME = 4096  # features that are held in float64


class Moments(NamedTuple):
    """The sums of a set of features that its mean and covariance are made of."""

    n: int  # features in the set
    mean: np.ndarray  # float64 (D,)
    scatter: np.ndarray  # float64 (D, D): Σ (x − mean)(x − mean)ᵀ

    @property
    def covariance(self) -> np.ndarray:
        """scatter/(n − 1), without bias: (D, D)."""
        return self.scatter / (self.n - 1)


def moments_of(features: np.ndarray) -> Moments:
    """The moments of features, (N, D) of any real dtype, summed in float64.

    Raises:
        ValueError: features are not (N, D) with N ≥ 2, or not all finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features (N, D) with N of at least 2, got {features.shape}")
    parts = (features[i : i + AT_A_TIME] for i in range(0, len(features), AT_A_TIME))
    return reduce(_both, (_of_part(part.astype(np.float64)) for part in parts))


def merged(*parts: Moments) -> Moments:
    """The moments of several sets as one (Chan, Golub and LeVeque 1979, Eq. 2.1)."""
    return reduce(_both, parts)


def without(whole: Moments, part: Moments) -> Moments:
    """The moments of what is in `whole` and not in `part`: `merged` backwards."""
    n = whole.n - part.n
    mean = whole.mean + (whole.mean - part.mean) * (part.n / n)
    apart = part.mean - mean
    scatter = whole.scatter - part.scatter - np.outer(apart, apart) * (n * part.n / whole.n)
    return Moments(n, mean, scatter)


def _of_part(x: np.ndarray) -> Moments:
    mean = x.mean(axis=0)
    if not np.isfinite(mean).all():
        broken = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{broken} of {len(x)} features are NaN or infinite")
    x -= mean
    return Moments(len(x), mean, x.T @ x)


def _both(a: Moments, b: Moments) -> Moments:
    n, apart = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(apart, apart) * (a.n * b.n / n)
    return Moments(n, a.mean + apart * (b.n / n), scatter)
