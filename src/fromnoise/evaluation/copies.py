"""Find samples that copy training images.

How near is too near depends on the data: in some sets every image has a near twin. So thresholds
are fitted to real images that the model never saw, such that one in a million would be flagged.
The result is reported as sentences, as numbers for JSON, and as a sheet of pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.pictures import grid_figure

PIXELS = "pixels"
KTH = 10  # rank of the neighbour that measures the local density
FLAGGED_SHARE = 1e-6  # of unseen images, by each threshold
QUARTER, FEW = 0.25, 0.05  # the quantiles that Weibull's law is fitted to
FIGURES = ("distance", "ratio", "nearness")  # of `Figures`; each has a threshold
MIN_IMAGES = 20  # real images that a threshold is fitted to
MAX_LEFT_OUT = 4096  # training images that replace missing held-out images
QUANTILES = {"smallest": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5, "90 %": 0.9}
PAIRS = 24  # on a sheet
COLUMNS = 11  # three pairs of three images, and a gap between them
BLOCK = 2048  # images compared at a time: 32 MiB of distances
FEATURES = 2**21  # numbers of features at a time: 16 MiB
MIN_SIGMA, MIN_SHARE = 3.0, 0.55  # of `share_nearer`, for a sign of overfitting


class Figures(NamedTuple):
    """Distances of N images to the training images of rank 1, 2 and k = `KTH`."""

    distance: np.ndarray  # float64 (N,): d_1, to the nearest
    second: np.ndarray  # float64 (N,): d_2, to the second nearest
    ratio: np.ndarray  # float64 (N,): d_1/d_2 in [0, 1]; 1 where both are 0
    nearness: np.ndarray  # float64 (N,): d_1/d_k in [0, 1]; 1 where both are 0
    index: np.ndarray  # int64 (N, 2), the nearest and the second nearest training image
    mirrored: np.ndarray  # bool (N, 2): the distance is that of its mirror image


class SpaceCheck(NamedTuple):
    """The figures and thresholds of one space."""

    samples: Figures
    held_out: Figures
    thresholds: dict[str, float]  # of each of `FIGURES`
    flagged: np.ndarray  # bool (N,): samples that are copies by these figures
    held_out_flagged: np.ndarray  # bool (L,)


class CopyCheck(NamedTuple):
    """The check of all spaces; `PIXELS` is the first of them."""

    num_train: int
    k: int  # `KTH`, or the rank of the last of fewer training images
    unseen: str  # what the held-out images are
    spaces: dict[str, SpaceCheck]
    flagged: np.ndarray  # bool (N,): samples that are copies in any space
    held_out_flagged: np.ndarray  # bool (L,): held-out images that the same rule flags
    exact: np.ndarray  # bool (N,): samples that equal a training image or its mirror image


def evenly_spaced(count: int, most: int = MAX_LEFT_OUT) -> np.ndarray:
    """Return at most `most` of the rows 0..count − 1, evenly spaced: int64."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def check_copies(
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    spaces: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {},
) -> CopyCheck:
    """Find copies of training images, in pixels and in further spaces.

    Each image has three figures: its distance d_1 to the nearest training image, the ratio d_1/d_2
    to the second nearest, and its nearness d_1/d_k to the k-th, k = 10, or the last of fewer images
    (Carlini et al. 2023 divide by half the mean of the 50 nearest instead). d_1 alone would flag
    images with little content. d_1/d_2 finds the most copies, but not that of an image with a twin
    in the training set, which d_1/d_k finds. A sample is a copy if any figure, in any space, is at
    most its threshold. Mirrored training images count too.

    The threshold: for points scattered in D dimensions, the distance to the nearest follows
    Weibull's law, P(d_1 ≤ d) = 1 − exp(−c d^D), and P of the two quotients falls with the same
    power D where they are small. The line through the 25 % and the 5 % quantile of real images'
    figures, in log d over log(−log(1 − P)), is extrapolated to P = 10⁻⁶. One real image in a
    hundred that is itself a copy changes it little. With fewer than 20 images the threshold is 0:
    only equal images are copies.

    samples, train: uint8 (N, C, H, W) and (M, C, H, W), N ≥ 1, M ≥ 3. held_out: real images that
    were not trained on, uint8 (L, C, H, W). None: at most 4,096 training images, each compared with
    all others. spaces: functions of images to features (·, D) of any real dtype by name, as in "the
    features of inception". Distances in pixels are root mean squares over the numbers of an image,
    in [0, 1].
    """
    rows = evenly_spaced(len(train)) if held_out is None else None
    real = train[rows] if held_out is None else held_out
    ranks = (1, 2, min(KTH, len(train) - 1))  # without the row left out, M − 1 remain

    def check(features: Callable[[np.ndarray], np.ndarray], unit: float = 1.0) -> SpaceCheck:
        of_train = features(train)

        def figures(images: np.ndarray, found: np.ndarray, rows: np.ndarray | None) -> Figures:
            mirrored = features(images[..., ::-1])
            distance, index, turned = ranked_neighbours(
                found, mirrored, of_train, ranks=ranks, leave_out=rows
            )
            first, second, kth = (distance / unit).T
            ratio, nearness = (
                np.divide(first, d, out=np.ones_like(first), where=d > 0) for d in (second, kth)
            )
            return Figures(first, second, ratio, nearness, index[:, :2], turned[:, :2])

        of_samples = figures(samples, features(samples), None)
        of_real = figures(real, features(real) if rows is None else of_train[rows], rows)
        thresholds = {key: rare_threshold(getattr(of_real, key)) for key in FIGURES}
        flags = (
            np.any([getattr(of, key) <= most for key, most in thresholds.items()], axis=0)
            for of in (of_samples, of_real)
        )
        return SpaceCheck(of_samples, of_real, thresholds, *flags)

    pixels = check(lambda x: x.reshape(len(x), -1), float(255 * np.prod(train.shape[1:]) ** 0.5))
    checks = {PIXELS: pixels} | {name: check(features) for name, features in spaces.items()}
    return CopyCheck(
        num_train=len(train),
        k=ranks[-1],
        unseen="held-out real images" if rows is None else "training images, each left out",
        spaces=checks,
        flagged=np.any([of.flagged for of in checks.values()], axis=0),
        held_out_flagged=np.any([of.held_out_flagged for of in checks.values()], axis=0),
        exact=pixels.samples.distance == 0,
    )


def rare_threshold(figures: np.ndarray, *, share: float = FLAGGED_SHARE) -> float:
    """Return the value that a share of images falls below, by Weibull's law; see `check_copies`.

    figures: of real images (L,), ≥ 0. Returns 0 for few images, and if the smaller quantile is 0 or
    equal to the larger one.
    """
    few, quarter = np.quantile(figures, (FEW, QUARTER))
    if len(figures) < MIN_IMAGES or few in (0, quarter):
        return 0.0
    x = np.log(-np.log1p(-np.array([share, FEW, QUARTER])))
    slope = np.log(quarter / few) / (x[2] - x[1])  # 1/D
    return float(few * np.exp(slope * (x[0] - x[1])))


def share_nearer(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the share of pairs in which a is below b, ties as ½, and its z-score against ½.

    The share is Mann and Whitney's U over its maximum. With the distances d_1 of samples and of
    held-out images it is the test for copying of Meehan, Chaudhuri and Dasgupta 2020.
    """
    ordered = np.sort(b)
    above = len(b) - np.searchsorted(ordered, a, side="right")
    equal = np.searchsorted(ordered, a, side="right") - np.searchsorted(ordered, a, side="left")
    share = float((above + equal / 2).mean() / len(b))
    sigma = ((len(a) + len(b) + 1) / (12 * len(a) * len(b))) ** 0.5
    return share, (share - 0.5) / sigma


def copy_verdict(check: CopyCheck) -> str:
    """Return the result in two or three sentences; the last names the images compared with."""
    copies, real, unseen = check.flagged, check.held_out_flagged, check.unseen
    found = _format_share(copies, "samples")
    if not copies.any():
        first = f"None of {len(copies):,} samples is a copy of a training image."
    elif copies.mean() <= real.mean():
        first = (
            f"{found} are as near to a training image as copies, but so are "
            f"{_format_share(real, unseen)}: the data has near twins."
        )
    else:
        parts = [f"{of.flagged.sum():,} by {name}" for name, of in check.spaces.items()]
        evidence = f"{check.exact.sum():,} of them exact; {', '.join(parts)}"
        first = f"{found} are copies of training images ({evidence})."
    compared = f"Compared with {len(real):,} {unseen}, of which {real.sum():,} are flagged too"
    if not any(max(of.thresholds.values()) for of in check.spaces.values()):
        compared += ". They give no threshold, so only equal images are copies"
    return " ".join([first, *_overfitting_notes(check), f"{compared}."])


def copies_as_json(check: CopyCheck) -> dict[str, Any]:
    """Return every figure for JSON.

    Distances are in the unit of their space: in pixels the root mean square difference, in [0, 1].
    `distance` is d_1, to the nearest training image, `ratio` d_1/d_2, `nearness` d_1/d_k.
    """

    def copy(i: int, space: str) -> dict[str, Any]:
        """Return a flagged sample with its figures in the most suspicious space."""
        near = check.spaces[space].samples
        return {
            "sample": i,
            "flagged by": [name for name, of in check.spaces.items() if of.flagged[i]],
            "space": space,
            "training_image": int(near.index[i, 0]),
            "mirrored": bool(near.mirrored[i, 0]),
            **{key: float(getattr(near, key)[i]) for key in FIGURES},
        }

    pixels = check.spaces[PIXELS]
    return {
        "verdict": copy_verdict(check),
        "rule": (
            "distance d_1, ratio d_1/d_2 or nearness d_1/d_k with "
            f"k = {check.k} at most its threshold, below which one unseen "
            f"image in {1 / FLAGGED_SHARE:,.0f} is expected"
        ),
        "compared with": check.unseen,
        "samples": _counts(check.flagged, pixels.samples.distance),
        "held_out": _counts(check.held_out_flagged, pixels.held_out.distance),
        "training_images": check.num_train,
        "copies": [copy(*of) for of in _likeliest_first(check)[: check.flagged.sum()]],
        "held_out_flagged": check.held_out_flagged.nonzero()[0].tolist(),
        "spaces": {name: _space(of) for name, of in check.spaces.items()},
    }


def save_copy_sheet(
    check: CopyCheck, samples: np.ndarray, train: np.ndarray, path: Path, *, pairs: int = PAIRS
) -> Path:
    """Write samples with their nearest and second nearest training images as a PNG.

    A training image is mirrored if its mirror image is nearer. The caption of a sample has d_1/d_k
    and marks a copy; that of a training image has its index and distance, the nearest d_1/d_2 too.

    samples, train: the images that were checked, uint8 (N, C, H, W) and (M, C, H, W). pairs: the
    largest number of samples: flagged ones, then those of the lowest nearness for their space.
    """
    images, captions = [], []
    for i, space in _likeliest_first(check)[:pairs]:
        if images and len(images) % COLUMNS:
            images.append(np.full_like(samples[i], 255))  # a gap between pairs
            captions.append("")
        near = check.spaces[space].samples
        images.append(samples[i])
        lines = [f"sample {i}", f"d1/d{check.k} = {near.nearness[i]:.2f}"]
        lines += ["COPY"] * bool(check.flagged[i])
        lines += [f"by {space}"] * (len(check.spaces) > 1)
        captions.append("\n".join(lines))
        for rank, distance in enumerate((near.distance[i], near.second[i])):
            row, mirrored = near.index[i, rank], near.mirrored[i, rank]
            images.append(train[row][..., ::-1] if mirrored else train[row])
            lines = [f"training {row}", f"d{rank + 1} = {distance:.3f}"]
            lines += ["mirrored"] * bool(mirrored)
            lines += [f"d1/d2 = {near.ratio[i]:.2f}"] * (rank == 0)
            captions.append("\n".join(lines))
    title = "The samples nearest to training images; "
    title += f"{_format_share(check.flagged, 'samples')} are copies"
    return grid_figure(np.stack(images), path, title=title, captions=captions, columns=COLUMNS)


def _likeliest_first(check: CopyCheck) -> list[tuple[int, str]]:
    """Return the samples, flagged ones first, each with the space in which it is most suspicious.

    Suspicious is a low nearness over its median among real images.
    """
    names, spaces = list(check.spaces), check.spaces.values()
    medians = [max(float(np.median(of.held_out.nearness)), 1e-9) for of in spaces]
    suspicion = np.stack([of.samples.nearness / m for of, m in zip(spaces, medians, strict=True)])
    order = np.lexsort((suspicion.min(axis=0), ~check.flagged))
    return [(int(i), names[suspicion[:, i].argmin()]) for i in order]


def _format_share(flags: np.ndarray, images: str) -> str:
    return f"{flags.sum():,} of {len(flags):,} {images} ({100 * flags.mean():.2g} %)"


def _overfitting_notes(check: CopyCheck) -> list[str]:
    """Return a sentence for each space in which samples that are no copies are too near."""
    sentences, rest = [], ~check.flagged
    subject = "the samples" if rest.all() else "the other samples"
    for name, of in check.spaces.items() if rest.any() else ():
        distance, real = of.samples.distance[rest], of.held_out.distance
        share, z = share_nearer(distance, real)
        if share < MIN_SHARE or z < MIN_SIGMA:
            continue
        sentences.append(
            f"As a whole {subject} are nearer to the training images than unseen real images "
            f"(median {np.median(distance):.3f} against {np.median(real):.3f}, by {name}): "
            "a sign of overfitting, or of samples smoother than the data."
        )
    return sentences


def _counts(flagged: np.ndarray, distance: np.ndarray) -> dict[str, Any]:
    return {
        "images": len(flagged),
        "flagged": int(flagged.sum()),
        "share flagged": float(flagged.mean()),
        "exact": int((distance == 0).sum()),
    }


def _space(of: SpaceCheck) -> dict[str, Any]:
    share, z = share_nearer(of.samples.distance, of.held_out.distance)
    return {
        "thresholds": of.thresholds,
        "flagged": int(of.flagged.sum()),
        "held_out_flagged": int(of.held_out_flagged.sum()),
        "samples": _quantiles(of.samples),
        "held_out": _quantiles(of.held_out),
        "nearer than held-out": {"share": share, "z": z},
    }


def _quantiles(figures: Figures) -> dict[str, dict[str, float]]:
    return {
        key: {name: float(np.quantile(getattr(figures, key), q)) for name, q in QUANTILES.items()}
        for key in FIGURES
    }


def ranked_neighbours(
    a: np.ndarray,
    mirrored: np.ndarray,
    b: np.ndarray,
    *,
    ranks: Sequence[int],
    leave_out: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return the neighbours of the given ranks of each image, mirrored or not.

    Three arrays (N, R), a column per rank: the Euclidean distance, float64, ascending; the row of
    b, int64; and whether the mirrored image is the nearer one.

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
        index = index[:, np.array(ranks) - 1]  # (n, R)
        plain, turned = (
            np.stack([np.linalg.norm(x - b[column], axis=1) for column in index.T], axis=1)
            for x in both
        )
        found = (np.minimum(plain, turned), index, turned < plain)
        order = found[0].argsort(axis=1, kind="stable")  # rounding may have exchanged two
        parts.append([np.take_along_axis(part, order, axis=1) for part in found])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


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
