"""What an extractor of features might have made of a set of images."""

import numpy as np


def features(count: int, width: int) -> np.ndarray:
    """Random ones, float32 (count, width)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, width), dtype=np.float32)


def statistics_of_others(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance that they are compared with."""
    return np.zeros(width), 1.1 * np.eye(width)
