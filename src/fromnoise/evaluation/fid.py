"""Compute the Fréchet distance between two sets of features, each described by a Gaussian."""

from functools import reduce
from typing import NamedTuple

import numpy as np


def frechet_distance(
    mean_a: np.ndarray,
    cov_a: np.ndarray,
    mean_b: np.ndarray,
    cov_b: np.ndarray,
    *,
    root_b: np.ndarray | None = None,
) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between two Gaussians.

    d² = |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)

    Dowson & Landau 1982; as a score of generated images Heusel et al. 2017, Eq. 6, where, as
    here, "distance" stands for its square.

    mean_a, mean_b: (D,). cov_a, cov_b: (D, D), symmetric and positive semi-definite, possibly
    singular. root_b: the matrix root of cov_b, if it is known. The distance is ≥ 0, in the squared
    unit of the features.
    Raises ValueError: the shapes do not match.
    """
    mean_a, cov_a, mean_b, cov_b = (
        np.asarray(of, dtype=np.float64) for of in (mean_a, cov_a, mean_b, cov_b)
    )
    d = mean_b.size
    if not mean_a.shape == mean_b.shape == (d,) or not cov_a.shape == cov_b.shape == (d, d):
        raise ValueError(
            f"the shapes {mean_a.shape}, {cov_a.shape}, {mean_b.shape}, {cov_b.shape} do not "
            "match. Give means (D,) and covariances (D, D) of one D."
        )
    # Σ_a Σ_b has the eigenvalues of Σ_b^½ Σ_a Σ_b^½, which is symmetric, so they are real, and the
    # trace of the matrix root is the sum of their roots.
    root_b = symmetric_root(cov_b) if root_b is None else root_b
    eigenvalues = np.linalg.eigvalsh(root_b @ cov_a @ root_b)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    squared = np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b)
    return max(0.0, float(squared - 2 * trace_of_root))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Return the root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # rounding makes some values < 0


CHUNK = 4096  # features in float64 at a time


class Moments(NamedTuple):
    """The count, mean and scatter matrix of a set of features."""

    n: int  # features in the set
    mean: np.ndarray  # float64 (D,)
    scatter: np.ndarray  # float64 (D, D): Σ (x − mean)(x − mean)ᵀ

    @property
    def covariance(self) -> np.ndarray:
        """Return scatter/(n − 1), without bias: (D, D)."""
        return self.scatter / (self.n - 1)


def moments_of(features: np.ndarray) -> Moments:
    """Return the moments of features (N, D) of any real dtype, summed in float64.

    Raises ValueError: features are not (N, D) with N ≥ 2, or not all finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}. Give (N, D) with N ≥ 2.")
    parts = (features[i : i + CHUNK] for i in range(0, len(features), CHUNK))
    return reduce(_merge_two, (_chunk_moments(part.astype(np.float64)) for part in parts))


def merge_moments(*parts: Moments) -> Moments:
    """Return the moments of the union of sets (Chan, Golub and LeVeque 1979, Eq. 2.1)."""
    return reduce(_merge_two, parts)


def subtract_moments(whole: Moments, part: Moments) -> Moments:
    """Return the moments of `whole` without its subset `part`: `merge_moments` inverted."""
    n = whole.n - part.n
    mean = whole.mean + (whole.mean - part.mean) * (part.n / n)
    shift = part.mean - mean
    scatter = whole.scatter - part.scatter - np.outer(shift, shift) * (n * part.n / whole.n)
    return Moments(n, mean, scatter)


def _chunk_moments(x: np.ndarray) -> Moments:
    mean = x.mean(axis=0)
    if not np.isfinite(mean).all():
        broken = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{broken} of {len(x)} features are NaN or infinite. Check the extractor.")
    x -= mean
    return Moments(len(x), mean, x.T @ x)


def _merge_two(a: Moments, b: Moments) -> Moments:
    n, shift = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(shift, shift) * (a.n * b.n / n)
    return Moments(n, a.mean + shift * (b.n / n), scatter)
