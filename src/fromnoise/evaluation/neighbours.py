"""Find nearest neighbours among features."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 2048  # images compared at a time: 32 MiB of distances
FEATURES = 2**21  # numbers of features at a time: 16 MiB


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

    Of equally near rows it returns any. Raises ValueError: there are fewer rows than ranks.
    """
    if (left := len(b) - (leave_out is not None)) < max(ranks):
        raise ValueError(f"{left} rows have no neighbour of rank {max(ranks)}. Give more rows.")
    side = min(max(FEATURES // a.shape[1], 16), BLOCK)
    parts = []
    for start in range(0, len(a), side):
        rows = slice(start, start + side)
        both = np.stack([a[rows], mirrored[rows]]).astype(np.float64)  # (2, n, D)
        excluded = None if leave_out is None else torch.from_numpy(leave_out[rows])[:, None]
        index = _nearest(torch.from_numpy(both), b, max(ranks), side, excluded)
        parts.append(_measure(both, b, index[:, np.array(ranks) - 1]))
    return Ranked(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def distances(a: Tensor, b: Tensor, *, rows: int) -> Tensor:
    """Return Euclidean distances (…, N, M), computed for so many rows of b at a time."""
    return torch.cat([torch.cdist(a, part) for part in b.split(rows)], dim=-1)


def _nearest(
    both: Tensor, b: np.ndarray, count: int, side: int, excluded: Tensor | None
) -> np.ndarray:
    """Return the `count` nearest rows of b of each image, given plain and mirrored, in order."""
    near = torch.full((both.shape[1], count), torch.inf, dtype=torch.float64)
    index = torch.zeros_like(near, dtype=torch.int64)
    for start in range(0, len(b), side):
        others = torch.from_numpy(b[start : start + side].astype(np.float64))
        found = torch.cdist(both, others).amin(dim=0)  # (n, others)
        here = torch.arange(start, start + len(others)).expand(found.shape)
        if excluded is not None:
            found[here == excluded] = torch.inf
        near, kept = torch.cat([near, found], dim=1).topk(count, largest=False)
        index = torch.cat([index, here], dim=1).gather(1, kept)
    return index.numpy()


def _measure(both: np.ndarray, b: np.ndarray, index: np.ndarray) -> Ranked:
    """Return the distances to the rows `index` (n, R) of b, from the differences."""
    plain, mirrored = (
        np.stack([np.linalg.norm(x - b[column], axis=1) for column in index.T], axis=1)
        for x in both
    )
    distance = np.minimum(plain, mirrored)
    order = distance.argsort(axis=1, kind="stable")  # rounding may have exchanged two
    parts = (distance, index, mirrored < plain)
    return Ranked(*(np.take_along_axis(part, order, axis=1) for part in parts))
