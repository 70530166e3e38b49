"""Are samples copies of training images? Only where unseen real images never come so near.

Nothing but real images tells how near is too near: in some sets every image has a near twin. So
the same figures are taken of real images that the model never saw, and from them a rule is made
that one of a million of them would break.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fromnoise.evaluation.neighbours import Ranked, ranked_neighbours

PIXELS = "pixels"
AROUND = 10  # the rank of the neighbour that tells how far neighbours are around an image
RARE = 1e-6  # the share of unseen images that each threshold may flag
QUARTER, FEW = 0.25, 0.05  # the quantiles that give the law of the small figures
FIGURES = ("distance", "ratio", "nearness")  # of `Figures`; each has a threshold
FEWEST = 20  # real images; from fewer no threshold is made
MOST_LEFT_OUT = 4096  # training images that stand in for held-out ones


class Space(NamedTuple):
    """Features of every image, in which distances are measured; each (·, D), any real dtype.

    Where there are no held-out images, `held_out` are training images: rows `left_out` of them.
    """

    name: str  # as in "in pixels", "in the classifier's features"
    samples: np.ndarray
    mirrored: np.ndarray  # of the samples, each mirrored left to right
    train: np.ndarray
    held_out: np.ndarray
    held_out_mirrored: np.ndarray
    unit: float = 1.0  # the distance that is reported as 1


def left_out(num_train: int) -> np.ndarray:
    """The training images, int64 (L,), that stand in for held-out ones: evenly spread."""
    return np.linspace(0, num_train - 1, min(MOST_LEFT_OUT, num_train)).round().astype(np.int64)


def space_of(
    name: str,
    features: Callable[[np.ndarray], np.ndarray],
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    unit: float = 1.0,
) -> Space:
    """The space of features that a function makes of images, uint8 (·, C, H, W) → (·, D)."""
    real = train[left_out(len(train))] if held_out is None else held_out
    return Space(
        name,
        features(samples),
        features(samples[..., ::-1]),
        features(train),
        features(real),
        features(real[..., ::-1]),
        unit,
    )


def check_copies(
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    spaces: Sequence[Space] = (),
) -> "CopyCheck":
    """Look for copies of training images, in pixels and in further spaces.

    Three figures are taken of each image: its distance d_1 to the nearest training image, the ratio
    d_1/d_2 to the second nearest, and its nearness d_1/d_k to the k-th, k = 10 or, among fewer
    images, the last (in place of Carlini et al. 2023, who divide by half the mean of the 50
    nearest). d_1 alone would take images with little on them for copies; d_1/d_2 finds the most,
    but not the copy of an image that has a twin in the training set, which d_1/d_k finds. A sample
    is a copy where any figure, in any space, is at most its threshold. Mirrored training images
    count too.

    The threshold: points that are scattered in D dimensions lie at distances to the nearest with
    P(d_1 ≤ d) = 1 − exp(−c d^D), Weibull's law, and of the two quotients P falls with the same
    power D where they are small. The line through the 25 % and the 5 % quantile of real images'
    figures, in log d over log(−log(1 − P)), is followed down to P = 10⁻⁶. One real image in a
    hundred that is itself a copy does not move it much. From fewer than 20 images no line is made,
    and the threshold is 0: only what is equal is a copy.

    Args:
        samples, train: uint8 (N, C, H, W) and (M, C, H, W), N ≥ 1, M ≥ 3.
        held_out: real images that were not trained on, uint8 (L, C, H, W). None: training images,
            at most 4,096, each compared with all others.
        spaces: further features of the same images, such as `space_of` makes.

    Returns:
        Distances in pixels are root mean squares over the numbers of an image, in [0, 1].

    Raises:
        ValueError: wrong dtype, sizes that differ, too few images, or a space of other images.
    """
    _check_images(samples, train, held_out)
    rows = left_out(len(train)) if held_out is None else None
    unit = 255 * np.prod(train.shape[1:]) ** 0.5
    pixels = space_of(PIXELS, _flat, samples, train, held_out, unit=float(unit))
    spaces = [pixels, *spaces]
    _check_spaces(spaces)
    return CopyCheck(
        num_train=len(train),
        left_out=rows is not None,
        spaces={space.name: _check_space(space, rows) for space in spaces},
    )


def rare_threshold(figures: np.ndarray, *, share: float = RARE) -> float:
    """The value that a share of images should fall below, by Weibull's law; see `check_copies`.

    figures: of real images (L,), ≥ 0. Below the smaller quantile, and 0 where there is no law to
    see: few images, or the smaller quantile 0 or equal to the larger one.
    """
    few, quarter = np.quantile(figures, (FEW, QUARTER))
    if len(figures) < FEWEST or few in (0, quarter):
        return 0.0
    at = np.log(-np.log1p(-np.array([share, FEW, QUARTER])))
    slope = np.log(quarter / few) / (at[2] - at[1])  # 1/D
    return float(few * np.exp(slope * (at[0] - at[1])))


class Figures(NamedTuple):
    """How near each of N images comes to the training images; rank 1 and 2, and `AROUND`."""

    distance: np.ndarray  # float64 (N,), to the nearest
    second: np.ndarray  # … to the second nearest
    around: np.ndarray  # … and to that of rank AROUND
    index: np.ndarray  # int64 (N, 2), the nearest and the second nearest training image
    mirrored: np.ndarray  # bool (N, 2): the one that is near is its mirror image

    @property
    def ratio(self) -> np.ndarray:
        """d_1/d_2 in [0, 1], (N,); 1 where both are 0."""
        return _quotient(self.distance, self.second)

    @property
    def nearness(self) -> np.ndarray:
        """d_1/d_k in [0, 1], (N,); 1 where both are 0."""
        return _quotient(self.distance, self.around)


@dataclass(frozen=True, kw_only=True)
class SpaceCheck:
    """What was found in one space."""

    samples: Figures
    held_out: Figures
    thresholds: dict[str, float]  # of each of `FIGURES`

    def flags(self, figures: Figures) -> np.ndarray:
        """Which images, bool (N,), are as near as copies."""
        near = [getattr(figures, key) <= most for key, most in self.thresholds.items()]
        return np.any(near, axis=0)


def nearer(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """How often a number of a is below one of b, ties half, and by how many σ that is above ½.

    Mann and Whitney's U as a share. With the distances d_1 of samples and of held-out images it is
    the test for copying of Meehan, Chaudhuri and Dasgupta 2020, over the whole space at once.
    """
    ordered = np.sort(b)
    above = len(b) - np.searchsorted(ordered, a, side="right")
    equal = np.searchsorted(ordered, a, side="right") - np.searchsorted(ordered, a, side="left")
    share = float((above + equal / 2).mean() / len(b))
    sigma = ((len(a) + len(b) + 1) / (12 * len(a) * len(b))) ** 0.5
    return share, (share - 0.5) / sigma


@dataclass(frozen=True, kw_only=True)
class CopyCheck:
    """What was found in all spaces; `PIXELS` is the first of them."""

    num_train: int
    left_out: bool  # the real images are training images, each compared with all others
    spaces: dict[str, SpaceCheck]

    @property
    def flagged(self) -> np.ndarray:
        """The samples, bool (N,), that are copies in some space."""
        return np.any([of.flags(of.samples) for of in self.spaces.values()], axis=0)

    @property
    def held_out_flagged(self) -> np.ndarray:
        """The real images, bool (L,), that the same rule takes for copies."""
        return np.any([of.flags(of.held_out) for of in self.spaces.values()], axis=0)

    @property
    def exact(self) -> np.ndarray:
        """The samples, bool (N,), that equal a training image, or its mirror image, throughout."""
        return self.spaces[PIXELS].samples.distance == 0

    @property
    def held_out_exact(self) -> np.ndarray:
        """As `exact`, of the real images (L,)."""
        return self.spaces[PIXELS].held_out.distance == 0


def _check_space(space: Space, rows: np.ndarray | None) -> SpaceCheck:
    ranks = (1, 2, min(AROUND, len(space.train) - 1))  # one rank for all: among M − 1 are left
    samples = ranked_neighbours(space.samples, space.mirrored, space.train, ranks=ranks)
    held_out = ranked_neighbours(
        space.held_out, space.held_out_mirrored, space.train, ranks=ranks, leave_out=rows
    )
    of_samples, of_held_out = (_figures(found, space.unit) for found in (samples, held_out))
    return SpaceCheck(
        samples=of_samples,
        held_out=of_held_out,
        thresholds={key: rare_threshold(getattr(of_held_out, key)) for key in FIGURES},
    )


def _figures(found: Ranked, unit: float) -> Figures:
    first, second, around = (found.distance / unit).T
    return Figures(first, second, around, found.index[:, :2], found.mirrored[:, :2])


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.ones_like(a), where=b > 0)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _check_images(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray | None) -> None:
    named = {"samples": samples, "training images": train, "held-out images": held_out}
    for name, images in named.items():
        if images is None:
            continue
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"expected uint8 (·, C, H, W) of one size, got {name} {images.dtype} "
                f"{images.shape} beside training images {train.shape}"
            )
        if len(images) < (least := 3 if images is train else 1):
            raise ValueError(f"expected at least {least} {name}, got {len(images)}")


def _check_spaces(spaces: Sequence[Space]) -> None:
    expected = [len(part) for part in spaces[0][1:-1]]
    for i, (name, *parts, _) in enumerate(spaces):
        if name in [space.name for space in spaces[:i]]:
            raise ValueError(f"two spaces are called {name}; give each a name of its own")
        if (lengths := [len(part) for part in parts]) != expected:
            raise ValueError(
                f"the space {name} has features of other images: {lengths} instead of {expected} "
                "samples, mirrored samples, training, held-out and mirrored held-out images"
            )
