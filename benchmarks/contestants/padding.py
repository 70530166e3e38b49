"""Add a black border to images, for networks that halve the side more often than 28 allows."""

import numpy as np

SIDE = 32


def padded(images: np.ndarray) -> np.ndarray:
    """Pad (..., H, W) with zeros to (..., SIDE, SIDE), centred."""
    edges = [_edges(length) for length in images.shape[-2:]]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + edges)


def unpadded(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Undo `padded`: return the central (..., H, W) of (..., SIDE, SIDE)."""
    (top, _), (left, _) = (_edges(length) for length in size)
    return images[..., top : top + size[0], left : left + size[1]]


def _edges(length: int) -> tuple[int, int]:
    before = (SIDE - length) // 2
    return before, SIDE - length - before
