"""The Fréchet distance between two sets of features, each summed up by a Gaussian."""

from collections.abc import Callable

import numpy as np


def frechet_distance(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between two Gaussians.

    d² = |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)

    Dowson & Landau 1982; as a score of generated images Heusel et al. 2017, Eq. 6, where, as
    here, "distance" stands for its square.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric and positive semi-definite; singular ones are fine.

    Returns:
        A number ≥ 0, in the squared unit of the features.

    Raises:
        ValueError: the shapes do not belong together.
    """
    return frechet_to(mean_b, cov_b)(mean_a, cov_a)


def frechet_to(mean_b: np.ndarray, cov_b: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """`frechet_distance` from any Gaussian to this one, whose matrix root is taken only once."""
    mean_b, cov_b = np.asarray(mean_b, dtype=np.float64), np.asarray(cov_b, dtype=np.float64)
    d = mean_b.size
    # Σ_a Σ_b has the eigenvalues of Σ_b^½ Σ_a Σ_b^½. That form is symmetric, so they come out
    # real, and the trace of the root is the sum of their roots: no other matrix root is needed.
    root_b = _symmetric_root(cov_b) if cov_b.shape == (d, d) else cov_b

    def distance(mean_a: np.ndarray, cov_a: np.ndarray) -> float:
        mean_a, cov_a = np.asarray(mean_a, dtype=np.float64), np.asarray(cov_a, dtype=np.float64)
        if not mean_a.shape == mean_b.shape == (d,) or not cov_a.shape == cov_b.shape == (d, d):
            raise ValueError(
                "expected means (D,) and covariances (D, D) of one D, got "
                f"{mean_a.shape}, {cov_a.shape}, {mean_b.shape} and {cov_b.shape}"
            )
        eigenvalues = np.linalg.eigvalsh(root_b @ cov_a @ root_b)
        trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
        squared = np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b)
        return max(0.0, float(squared - 2 * trace_of_root))

    return distance


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # rounding makes some values < 0
