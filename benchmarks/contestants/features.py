"""Random features, in place of those of a set of images."""

import numpy as np


def features(count: int, width: int) -> np.ndarray:
    """Return random features, float32 (count, width)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, width), dtype=np.float32)


def statistics_of_others(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and covariance to compare with."""
    return np.zeros(width), 1.1 * np.eye(width)
