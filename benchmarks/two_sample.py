"""Test whether two sets are distinguishable by their nearest neighbours."""

import numpy as np

BLOCK = 2048  # rows compared at a time: 32 MiB of distances


def one_nearest_neighbour_accuracy(a: np.ndarray, b: np.ndarray) -> float:
    """Return how often a point's nearest other point is of the point's own set.

    The two-sample test of Lopez-Paz & Oquab 2017, with a 1-nearest-neighbour classifier: 0.5 if the
    sets are indistinguishable, 1 if they are far apart, and near 0 if one copies the other. It is
    the mean of the two sets' accuracies, so 0.5 keeps its meaning for sets of unequal size; for
    equal sizes it is the accuracy over all points.

    Args:
        a, b: features (N, D) and (M, D), any real dtype, at least one row each.

    Returns:
        A number in [0, 1]. Of equally near neighbours the first counts, those in a before b.

    Raises:
        ValueError: the shapes do not match.
    """
    _check(a, b)
    pooled = np.concatenate([a, b])
    _, index = nearest(pooled, pooled, leave_out=np.arange(len(pooled)))
    in_a = index < len(a)
    return float(in_a[: len(a)].mean() + (~in_a[len(a) :]).mean()) / 2


def nearest(
    a: np.ndarray, b: np.ndarray, *, leave_out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Euclidean distance of each row of a to its nearest row of b, and that row's index.

    Args:
        a, b: (N, D) and (M, D), any real dtype; compared in float64. Exact for uint8.
        leave_out: int (N,), for each row of a the row of b that is excluded: itself, if a was taken
            from b.

    Returns:
        distance: float64 (N,), in the unit of the features.
        index: int64 (N,), in [0, M); the lowest of equally near rows.

    Raises:
        ValueError: the shapes do not match, or no row is left.
    """
    _check(a, b)
    if leave_out is not None and len(b) < 2:
        raise ValueError(f"b has {len(b)} row, which is left out. Give at least 2 rows.")
    index = np.empty(len(a), dtype=np.int64)
    distance = np.empty(len(a))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        block = a[rows].astype(np.float64)
        index[rows] = _nearest_index(block, b, None if leave_out is None else leave_out[rows])
        # The expanded |x − y|² of the search is inexact for x ≈ y: compute the distance again.
        distance[rows] = np.linalg.norm(block - b[index[rows]], axis=1)
    return distance, index


def _nearest_index(block: np.ndarray, b: np.ndarray, leave_out: np.ndarray | None) -> np.ndarray:
    rows = np.arange(len(block))
    best, index = np.full(len(block), np.inf), np.zeros(len(block), dtype=np.int64)
    for start in range(0, len(b), BLOCK):
        others = b[start : start + BLOCK].astype(np.float64)
        # |x − y|² = |x|² − 2x·y + |y|², without |x|², which is the same for every y. For uint8 all
        # terms are integers, exact in float64.
        score = np.square(others).sum(axis=1) - 2 * block @ others.T  # (rows, others)
        if leave_out is not None:
            here = (leave_out >= start) & (leave_out < start + len(others))
            score[here, leave_out[here] - start] = np.inf
        nearest_here = score.argmin(axis=1)
        score = score[rows, nearest_here]
        nearer = score < best  # strictly: of equals the first stays
        best[nearer], index[nearer] = score[nearer], nearest_here[nearer] + start
    return index


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(
            f"the shapes are {a.shape} and {b.shape}. Give (N, D) and (M, D), not empty."
        )
