"""The Fréchet distance between two sets of features, each summed up by a Gaussian."""

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
    mean_a, cov_a, mean_b, cov_b = (
        np.asarray(x, dtype=np.float64) for x in (mean_a, cov_a, mean_b, cov_b)
    )
    d = mean_a.size
    if not mean_a.shape == mean_b.shape == (d,) or not cov_a.shape == cov_b.shape == (d, d):
        raise ValueError(
            "expected means (D,) and covariances (D, D) of one D, got "
            f"{mean_a.shape}, {cov_a.shape}, {mean_b.shape} and {cov_b.shape}"
        )
    # Σ_a Σ_b has the eigenvalues of Σ_a^½ Σ_b Σ_a^½. That form is symmetric, so they come out
    # real, and the trace of the root is the sum of their roots: no matrix root is needed.
    root_a = _symmetric_root(cov_a)
    eigenvalues = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    squared = np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b)
    return max(0.0, float(squared - 2 * trace_of_root))


def gaussian_of(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and the unbiased covariance (D, D), float64, of features (N, D).

    Raises:
        ValueError: features are not (N, D) with N ≥ 2.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features (N, D) with N of at least 2, got {features.shape}")
    features = features.astype(np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def pixel_features(images: np.ndarray) -> np.ndarray:
    """Return images, uint8 (N, C, H, W), as float64 features (N, C·H·W) in [0, 1].

    Raises:
        ValueError: the images are not uint8 (N, C, H, W).
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"expected uint8 (N, C, H, W), got {images.dtype} {images.shape}")
    return images.reshape(len(images), -1) / 255.0


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # rounding makes some values < 0
