"""Find nearest neighbours of images, mirrored or not."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 2048  # rows compared at a time: 32 MiB of distances


class Ranked(NamedTuple):
    """Neighbours among M rows of each of N images, a column per rank."""

    distance: np.ndarray  # float64 (N, R), Euclidean, ascending along the ranks
    index: np.ndarray  # int64 (N, R), in [0, M)
    mirrored: np.ndarray  # bool (N, R): the mirrored image is the nearer one


def ranked_neighbours(
    a: np.ndarray,
    mirrored: np.ndarray,
    b: np.ndarray,
    *,
    ranks: Sequence[int],
    leave_out: np.ndarray | None = None,
) -> Ranked:
    """Return the neighbours of the given ranks of each image, mirrored or not.

    The distance of two images is the smaller one of a to b, and of the mirrored a to b.

    a, mirrored: features of N images and of their mirror images, both (N, D). b: (M, D). All three
    of any real dtype; compared in float64. Exact for uint8. ranks: in ascending order, 1 for the
    nearest. leave_out: int (N,), for each row of a the row of b that is excluded, mirrored too:
    itself, if a was taken from b.

    Of equally near rows it returns any. Raises ValueError: the shapes do not match, or there are
    fewer rows than ranks.
    """
    _check(a, b)
    if mirrored.shape != a.shape:
        raise ValueError(f"mirrored has shape {mirrored.shape}. Give that of a, {a.shape}.")
    if (left := len(b) - (leave_out is not None)) < max(ranks):
        raise ValueError(f"{left} rows have no neighbour of rank {max(ranks)}. Give more rows.")
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


def _near_indices(
    both: tuple[np.ndarray, np.ndarray],
    b: np.ndarray,
    num: int,
    side: int,
    leave_out: np.ndarray | None,
) -> np.ndarray:
    """Return the `num` nearest rows of b of each image, given plain and mirrored, in order."""
    n = len(both[0])
    best, index = np.full((n, num), np.inf), np.zeros((n, num), dtype=np.int64)
    for start in range(0, len(b), side):
        others = b[start : start + side].astype(np.float64)
        # |x − y|² − |y|² of the nearer one of x and its mirror image, with |x|²: it differs between
        # the two.
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
    """Return the distances to the rows `index` (n, R) of b, from the differences."""
    plain, mirrored = (
        np.stack([np.linalg.norm(x - b[column], axis=1) for column in index.T], axis=1)
        for x in both
    )
    distance = np.minimum(plain, mirrored)
    order = distance.argsort(axis=1, kind="stable")  # rounding may have exchanged two
    parts = (distance, index, mirrored < plain)
    return Ranked(*(np.take_along_axis(part, order, axis=1) for part in parts))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(
            f"the shapes are {a.shape} and {b.shape}. Give (N, D) and (M, D), not empty."
        )
