"""A black border around images for networks that halve their side more often than 28 allows."""

import numpy as np

SIDE = 32


def padded(images: np.ndarray) -> np.ndarray:
    """(..., H, W) in the middle of (..., SIDE, SIDE); what is around it is 0."""
    edges = [_edges(length) for length in images.shape[-2:]]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + edges)


def unpadded(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The (..., H, W) that `padded` had put into (..., SIDE, SIDE)."""
    (top, _), (left, _) = (_edges(length) for length in size)
    return images[..., top : top + size[0], left : left + size[1]]


def _edges(length: int) -> tuple[int, int]:
    before = (SIDE - length) // 2
    return before, SIDE - length - before
