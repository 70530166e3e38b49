"""Find samples that copy training images.

How near is too near depends on the data: in some sets every image has a near twin. So thresholds
are fitted to real images that the model never saw, such that one in a million would be flagged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fromnoise.evaluation.neighbours import ranked_neighbours

PIXELS = "pixels"
KTH = 10  # rank of the neighbour that measures the local density
FLAGGED_SHARE = 1e-6  # of unseen images, by each threshold
QUARTER, FEW = 0.25, 0.05  # the quantiles that Weibull's law is fitted to
FIGURES = ("distance", "ratio", "nearness")  # of `Figures`; each has a threshold
MIN_IMAGES = 20  # real images that a threshold is fitted to
MAX_LEFT_OUT = 4096  # training images that replace missing held-out images


class Space(NamedTuple):
    """Features of all images, in which distances are measured; each (·, D), any real dtype.

    Without held-out images, `held_out` are the training images of `left_out_rows`.
    """

    samples: np.ndarray
    mirrored: np.ndarray  # of the samples, each mirrored left to right
    train: np.ndarray
    held_out: np.ndarray
    held_out_mirrored: np.ndarray
    unit: float = 1.0  # the distance that is reported as 1


def left_out_rows(num_train: int) -> np.ndarray:
    """Return the rows of evenly spaced training images that replace held-out ones: int64 (L,)."""
    return np.linspace(0, num_train - 1, min(MAX_LEFT_OUT, num_train)).round().astype(np.int64)


def space_of(
    features: Callable[[np.ndarray], np.ndarray],
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    unit: float = 1.0,
) -> Space:
    """Return the space of a function that maps images uint8 (·, C, H, W) to features (·, D)."""
    real = train[left_out_rows(len(train))] if held_out is None else held_out
    images = (samples, samples[..., ::-1], train, real, real[..., ::-1])
    return Space(*(features(each) for each in images), unit=unit)


def check_copies(
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    spaces: Mapping[str, Space] | None = None,
) -> "CopyCheck":
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
    all others. spaces: further features of the same images by name, as in "in the features of
    inception", see `space_of`. Distances in pixels are root mean squares over the numbers of an
    image, in [0, 1].
    """
    rows = left_out_rows(len(train)) if held_out is None else None
    unit = float(255 * np.prod(train.shape[1:]) ** 0.5)
    pixels = space_of(lambda x: x.reshape(len(x), -1), samples, train, held_out, unit=unit)
    return CopyCheck(
        num_train=len(train),
        leave_one_out=held_out is None,
        spaces={
            name: _check_space(space, rows)
            for name, space in {PIXELS: pixels, **(spaces or {})}.items()
        },
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


class Figures(NamedTuple):
    """Distances of N images to the training images of rank 1, 2 and `KTH`."""

    distance: np.ndarray  # float64 (N,), to the nearest
    second: np.ndarray  # float64 (N,), to the second nearest
    kth: np.ndarray  # float64 (N,), to that of rank KTH
    index: np.ndarray  # int64 (N, 2), the nearest and the second nearest training image
    mirrored: np.ndarray  # bool (N, 2): the distance is that of its mirror image

    @property
    def ratio(self) -> np.ndarray:
        """Return d_1/d_2 in [0, 1], (N,); 1 where both are 0."""
        return _quotient(self.distance, self.second)

    @property
    def nearness(self) -> np.ndarray:
        """Return d_1/d_k in [0, 1], (N,); 1 where both are 0."""
        return _quotient(self.distance, self.kth)


@dataclass(frozen=True)
class SpaceCheck:
    """The figures and thresholds of one space."""

    samples: Figures
    held_out: Figures
    thresholds: dict[str, float]  # of each of `FIGURES`

    def flags(self, figures: Figures) -> np.ndarray:
        """Return which images are copies by these figures: bool (N,)."""
        near = [getattr(figures, key) <= most for key, most in self.thresholds.items()]
        return np.any(near, axis=0)


def share_nearer(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return how often a number of a is below one of b, ties half, and by how many σ above ½.

    The share is Mann and Whitney's U over its maximum. With the distances d_1 of samples and of
    held-out images it is the test for copying of Meehan, Chaudhuri and Dasgupta 2020.
    """
    ordered = np.sort(b)
    above = len(b) - np.searchsorted(ordered, a, side="right")
    equal = np.searchsorted(ordered, a, side="right") - np.searchsorted(ordered, a, side="left")
    share = float((above + equal / 2).mean() / len(b))
    sigma = ((len(a) + len(b) + 1) / (12 * len(a) * len(b))) ** 0.5
    return share, (share - 0.5) / sigma


@dataclass(frozen=True, kw_only=True)
class CopyCheck:
    """The check of all spaces; `PIXELS` is the first of them."""

    num_train: int
    leave_one_out: bool  # held-out images are training images, each compared with all others
    spaces: dict[str, SpaceCheck]

    @property
    def flagged(self) -> np.ndarray:
        """Return which samples are copies in any space: bool (N,)."""
        return np.any([of.flags(of.samples) for of in self.spaces.values()], axis=0)

    @property
    def held_out_flagged(self) -> np.ndarray:
        """Return which held-out images the same rule flags: bool (L,)."""
        return np.any([of.flags(of.held_out) for of in self.spaces.values()], axis=0)

    @property
    def exact(self) -> np.ndarray:
        """Return which samples equal a training image or its mirror image: bool (N,)."""
        return self.spaces[PIXELS].samples.distance == 0


def _check_space(space: Space, rows: np.ndarray | None) -> SpaceCheck:
    ranks = (1, 2, min(KTH, len(space.train) - 1))  # without the row left out, M − 1 remain

    def figures(images: np.ndarray, mirrored: np.ndarray, rows: np.ndarray | None) -> Figures:
        near = ranked_neighbours(images, mirrored, space.train, ranks=ranks, leave_out=rows)
        first, second, kth = (near.distance / space.unit).T
        return Figures(first, second, kth, near.index[:, :2], near.mirrored[:, :2])

    samples = figures(space.samples, space.mirrored, None)
    real = figures(space.held_out, space.held_out_mirrored, rows)
    return SpaceCheck(samples, real, {key: rare_threshold(getattr(real, key)) for key in FIGURES})


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.ones_like(a), where=b > 0)
