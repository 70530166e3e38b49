"""Nearest neighbours, and what they tell: can samples be told from data?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 2048  # rows compared at a time: 32 MiB of distances, whatever the size of the sets


def one_nearest_neighbour_accuracy(a: np.ndarray, b: np.ndarray) -> float:
    """Return how often a point's nearest neighbour, itself left out, is of the point's own set.

    The two-sample test of Lopez-Paz & Oquab 2017, with a 1-nearest-neighbour classifier: 0.5
    when the sets are indistinguishable, 1 when they are far apart, and towards 0 when one
    copies the other. It is the mean of the two sets' accuracies, so that 0.5 keeps its meaning
    for sets of unequal size; for equal sizes that is the accuracy over all points.

    Args:
        a, b: features (N, D) and (M, D), any real dtype, at least one row each.

    Returns:
        A number in [0, 1]. Of equally near neighbours the first counts, those in a before b.

    Raises:
        ValueError: the shapes do not belong together.
    """
    _check(a, b)
    pooled = np.concatenate([a, b])
    _, index = nearest(pooled, pooled, leave_out=np.arange(len(pooled)))
    in_a = index < len(a)
    return float(in_a[: len(a)].mean() + (~in_a[len(a) :]).mean()) / 2


def nearest(
    a: np.ndarray, b: np.ndarray, *, leave_out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row of a the Euclidean distance to its nearest row of b, and which it is.

    Args:
        a, b: (N, D) and (M, D), any real dtype; compared in float64. Exact for uint8.
        leave_out: int (N,), for each row of a the row of b that it must not be matched with:
            itself, where a was taken from b.

    Returns:
        distance: float64 (N,), in the unit of the features.
        index: int64 (N,), in [0, M); the lowest of equally near rows.

    Raises:
        ValueError: the shapes do not belong together, or nothing is left to compare with.
    """
    _check(a, b)
    if leave_out is not None and len(b) < 2:
        raise ValueError("leaving a row out needs at least 2 rows to choose from")
    index = np.empty(len(a), dtype=np.int64)
    distance = np.empty(len(a))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        block = a[rows].astype(np.float64)
        index[rows] = _nearest_index(block, b, None if leave_out is None else leave_out[rows])
        # The expanded |x − y|² that found y loses its digits where x ≈ y: measure once more.
        distance[rows] = np.linalg.norm(block - b[index[rows]], axis=1)
    return distance, index


class Ranked(NamedTuple):
    """Some of the nearest of M rows to each of N, a column a rank."""

    distance: np.ndarray  # float64 (N, R), Euclidean, ascending along the ranks
    index: np.ndarray  # int64 (N, R), in [0, M)
    mirrored: np.ndarray  # bool (N, R): it was the mirrored image that came so near


def ranked_neighbours(
    a: np.ndarray,
    mirrored: np.ndarray,
    b: np.ndarray,
    *,
    ranks: Sequence[int],
    leave_out: np.ndarray | None = None,
) -> Ranked:
    """Return the neighbours of given ranks of each image, however either of them is mirrored.

    The distance of two images is the smaller one of two: of a to b, and of the mirrored a to b.

    Args:
        a, mirrored: features of N images and of their mirror images, both (N, D).
        b: (M, D). All three of any real dtype; compared in float64. Exact for uint8.
        ranks: of the neighbours wanted, 1 for the nearest, in ascending order.
        leave_out: as in `nearest`; the row is left out mirrored too.

    Returns:
        Of equally near rows any.

    Raises:
        ValueError: the shapes do not belong together, or there are fewer rows than ranks.
    """
    _check(a, b)
    if mirrored.shape != a.shape:
        raise ValueError(f"expected as many mirrored rows as rows, {a.shape}: {mirrored.shape}")
    if (left := len(b) - (leave_out is not None)) < max(ranks):
        raise ValueError(f"there is no neighbour of rank {max(ranks)} among {left} rows")
    side = min(max(2**21 // a.shape[1], 16), BLOCK)  # 16 MiB of features at a time
    parts = []
    for start in range(0, len(a), side):
        rows = slice(start, start + side)
        both = (a[rows].astype(np.float64), mirrored[rows].astype(np.float64))
        index = _near_indices(
            both, b, max(ranks), side, None if leave_out is None else leave_out[rows]
        )
        parts.append(_measure(both, b, index[:, np.array(ranks) - 1]))
    return Ranked(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _nearest_index(block: np.ndarray, b: np.ndarray, leave_out: np.ndarray | None) -> np.ndarray:
    rows = np.arange(len(block))
    best, index = np.full(len(block), np.inf), np.zeros(len(block), dtype=np.int64)
    for start in range(0, len(b), BLOCK):
        others = b[start : start + BLOCK].astype(np.float64)
        # |x − y|² = |x|² − 2x·y + |y|²; |x|² is the same for every y and left away. For uint8
        # every term is an integer that float64 holds exactly.
        score = np.square(others).sum(axis=1) - 2 * block @ others.T  # (rows, others)
        if leave_out is not None:
            here = (leave_out >= start) & (leave_out < start + len(others))
            score[here, leave_out[here] - start] = np.inf
        nearest_here = score.argmin(axis=1)
        score = score[rows, nearest_here]
        nearer = score < best  # strictly: of equals the first stays
        best[nearer], index[nearer] = score[nearer], nearest_here[nearer] + start
    return index


def _near_indices(
    both: tuple[np.ndarray, np.ndarray],
    b: np.ndarray,
    num: int,
    side: int,
    leave_out: np.ndarray | None,
) -> np.ndarray:
    """Of each image, given as itself and mirrored, the `num` nearest rows of b in order."""
    n = len(both[0])
    best, index = np.full((n, num), np.inf), np.zeros((n, num), dtype=np.int64)
    for start in range(0, len(b), side):
        others = b[start : start + side].astype(np.float64)
        # |x − y|² − |y|², of the nearer one of x and its mirror image; features of the two may
        # differ in length, so |x|² stays.
        score = np.minimum(
            *(np.square(x).sum(axis=1)[:, None] - 2 * x @ others.T for x in both)
        )  # (n, others)
        score += np.square(others).sum(axis=1)
        here = np.arange(start, start + len(others))
        if leave_out is not None:
            score[leave_out[:, None] == here] = np.inf
        score = np.concatenate([best, score], axis=1)
        known = np.concatenate([index, np.broadcast_to(here, (n, len(here)))], axis=1)
        kept = np.argpartition(score, num - 1, axis=1)[:, :num]
        best, index = (np.take_along_axis(of, kept, axis=1) for of in (score, known))
    return np.take_along_axis(index, best.argsort(axis=1), axis=1)


def _measure(both: tuple[np.ndarray, np.ndarray], b: np.ndarray, index: np.ndarray) -> Ranked:
    """The distances to the rows `index` (n, R) of b, from the difference itself."""
    plain, mirrored = (
        np.stack([np.linalg.norm(x - b[column], axis=1) for column in index.T], axis=1)
        for x in both
    )
    distance = np.minimum(plain, mirrored)
    order = distance.argsort(axis=1, kind="stable")  # where rounding had exchanged two
    found = (distance, index, mirrored < plain)
    return Ranked(*(np.take_along_axis(part, order, axis=1) for part in found))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"expected (N, D) and (M, D), not empty, got {a.shape} and {b.shape}")
