"""What nearest neighbours tell: can samples be told from data, and are any of them copies?"""

from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class CopyCheck:
    """How near samples come to training images; distances are Euclidean, pixels in [0, 1]."""

    smallest_distance: float
    sample_index: int  # the sample with the smallest distance …
    train_index: int  # … and the training image that it is near
    exact_copies: int  # samples that equal a training image in every pixel
    threshold: float  # a low quantile of the distances from training image to training image
    share_below_threshold: float  # of the samples, in [0, 1]; about the quantile if none copies


def copy_check(
    samples: np.ndarray, train: np.ndarray, *, quantile: float = 0.01, num_reference: int = 4096
) -> CopyCheck:
    """Compare samples' distances to training images with those among training images.

    A model that copies puts more than a share of `quantile` of its samples below the threshold.

    Args:
        samples, train: uint8 (N, C, H, W) and (M, C, H, W), M ≥ 2.
        quantile: of the training images' own distances to their nearest other one, in [0, 1].
        num_reference: those distances are taken of at most so many training images, evenly
            spread over the set.

    Raises:
        ValueError: wrong dtype or shapes.
    """
    if not samples.dtype == train.dtype == np.uint8 or samples.shape[1:] != train.shape[1:]:
        raise ValueError(
            "expected uint8 samples and training images of one size, got "
            f"{samples.dtype} {samples.shape} and {train.dtype} {train.shape}"
        )
    flat = train.reshape(len(train), -1)
    distance, index = nearest(samples.reshape(len(samples), -1), flat)
    chosen = np.linspace(0, len(train) - 1, min(num_reference, len(train))).round().astype(int)
    among_train, _ = nearest(flat[chosen], flat, leave_out=chosen)
    threshold = np.quantile(among_train, quantile)
    closest = int(distance.argmin())
    return CopyCheck(
        smallest_distance=float(distance[closest]) / 255,
        sample_index=closest,
        train_index=int(index[closest]),
        exact_copies=int((distance == 0).sum()),
        threshold=float(threshold) / 255,
        share_below_threshold=float((distance < threshold).mean()),
    )


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


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"expected (N, D) and (M, D), not empty, got {a.shape} and {b.shape}")
