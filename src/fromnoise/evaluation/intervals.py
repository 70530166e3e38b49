"""Compute 95 % intervals of scores: Student's, Wilson's, by a jackknife and by a bootstrap."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator

from fromnoise.classifier import label_scores

Number = Annotated[
    float, BeforeValidator(lambda x: math.nan if x in (None, math.inf, -math.inf) else x)
]
"""A number of a JSON file, in which null stands for NaN."""


class Interval(NamedTuple):
    """A score and its 95 % interval; all three are NaN if the score is 0/0."""

    value: Number = math.nan
    low: Number = math.nan
    high: Number = math.nan

    def known(self) -> tuple[float, float, float]:
        """Return the three, with the value in place of unknown ends."""
        low, high = (self.value if math.isnan(end) else end for end in (self.low, self.high))
        return self.value, low, high


def _interval(value: Any) -> Any:
    """Return the fields in a JSON file. A number alone has no interval; other keys are ignored."""
    if isinstance(value, Interval):
        return value
    found = value if isinstance(value, Mapping) else {"value": value}
    return {key: found.get(key) for key in Interval._fields}


Score = Annotated[Interval, BeforeValidator(_interval)]
"""An interval of a record, see `records`."""


def student_interval(value: float, error: float, parts: int) -> Interval:
    """Return Student's interval of a value with a standard error estimated from `parts` values."""
    from scipy.stats import t

    margin = float(t.ppf(0.975, parts - 1)) * error
    return Interval(value, value - margin, value + margin)


def mean_interval(values: np.ndarray) -> Interval:
    """Return Student's interval of the mean of independent values, (N,), N ≥ 2."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return student_interval(float(np.mean(values)), error, len(values))


def share_interval(share: float, n: float, *, freedom: float = math.inf) -> Interval:
    """Return Wilson's interval of a share of n (Wilson 1927), with Student's quantile."""
    from scipy.stats import t

    z = float(t.ppf(0.975, freedom))
    middle = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    low, high = (middle - margin) / scale, (middle + margin) / scale
    return Interval(share, max(0.0, min(share, low)), min(1.0, max(share, high)))  # by rounding


def jackknife_error(left_out: np.ndarray) -> float:
    """Return the standard error of a statistic from its values without each of G blocks (G,)."""
    G = len(left_out)
    return math.sqrt((G - 1) / G * np.square(left_out - left_out.mean()).sum())


class LabelScores(BaseModel):
    """The scores of one label."""

    asked: int = 0  # images with target +1
    negated: int = 0  # images with target −1
    precision: Score = Interval()
    recall: Score = Interval()
    f1: Score = Interval()
    extra: Score = Interval()  # share of the negated images in which the label is present


def score_with_intervals(
    predictions: label_scores.LabelPredictions,
    targets: np.ndarray,
    condition: np.ndarray,
    **bootstrap: int,
) -> dict[str, Interval]:
    """Return the scores of `scores` with 95 % intervals, over new conditions and new seeds.

    A percentile bootstrap (Efron 1979) in two stages (Davison & Hinkley 1997, §3.8): draw as many
    conditions as there are, with replacement, and from each of them as many images as it has, with
    replacement. Resamples in which a score is 0/0 are left out. If a score is defined in one
    condition only, its interval covers other seeds of that condition.

    If all images score alike, as with a score of 0 or 1, there is no spread to resample. Then the
    interval is [r · value, r · value + 1 − r] with r = 0.025^(1/n), for 0 and 1 that of Clopper &
    Pearson 1934 for no event among n. Here n counts the conditions in which the score is defined,
    because the images of one may all be right or wrong together; for one condition, its images.

    The coverage of these intervals was simulated. If conditions differ much (intraclass correlation
    0.25) and have 100 images each: 94 % with 40 conditions, 92 % with 10, 87 % with 5, 78 % with 3
    and 62 % with 2. If they do not differ and have several images each: 98 to 99 %, because the
    second stage counts the spread among seeds once more.

    predictions, targets: as for `score_ratios`. condition: int (N,), any integers. bootstrap:
    `resamples` (2,000), and `seed` (0), which gives the same intervals for any order and numbers of
    conditions.
    """
    ratios = list(label_scores.score_ratios(predictions, targets).values())
    one = np.zeros(len(targets))
    return dict(
        zip(label_scores.SCORES, _intervals(ratios, condition, one, **bootstrap), strict=True)
    )


def scores_per_label(
    predictions: label_scores.LabelPredictions,
    targets: np.ndarray,
    condition: np.ndarray,
    **bootstrap: int,
) -> list[LabelScores]:
    """Return precision, recall, f1 and extra of each label alone, in the order of the labels.

    Arguments and NaN are those of `score_with_intervals`. The bootstrap is stratified: it
    draws the conditions with target +1, −1 and 0 for this label as often as they occur, because a
    resample without any +1 would leave the scores undefined. Images in which the label is open do
    not count.
    """
    results = []
    names = ("precision", "recall", "f1", "extra")
    for k, ratios in enumerate(label_scores.ratios_per_label(predictions, targets)):
        intervals = _intervals([ratios[n] for n in names], condition, targets[:, k], **bootstrap)
        asked, negated = (int((targets[:, k] == sign).sum()) for sign in (1, -1))
        found = dict(zip(names, intervals, strict=True))
        results.append(LabelScores(asked=asked, negated=negated, **found))
    return results


def _intervals(
    ratios: list[label_scores.Ratio],
    group: np.ndarray,
    strata: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    numerators, denominators = (np.stack(part, axis=1) for part in zip(*ratios, strict=True))
    images = np.concatenate([numerators, denominators], axis=1)
    sums = sum(
        _resampled_sums(images[strata == each], group[strata == each], resamples, seed + i)
        for i, each in enumerate(np.unique(strata))
    )
    assert isinstance(sums, np.ndarray)
    intervals = []
    for i, (numerator, denominator) in enumerate(ratios):
        value = label_scores.ratio_of_sums(numerator, denominator)
        # true if every image with a ratio has the same one, and if the value is NaN
        if (numerator * denominator.sum() == denominator * numerator.sum()).all():
            low, high = _without_spread(value, denominator > 0, group)
        else:
            top, bottom = sums[:, i], sums[:, i + len(ratios)]
            defined = top[bottom > 0] / bottom[bottom > 0]
            low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
        intervals.append(Interval(value, float(low), float(high)))
    return intervals


def _without_spread(value: float, defined: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    if np.isnan(value):
        return value, value
    # If a share q of a condition's images is expected to differ, all are alike with a probability
    # of at most 1 − q, however they are correlated; in n conditions with at most (1 − mean q)ⁿ.
    n = len(np.unique(group[defined]))
    n = n if n > 1 else int(defined.sum())
    alike = 0.025 ** (1 / n)
    return alike * value, alike * value + (1 - alike)


def _resampled_sums(images: np.ndarray, group: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sum the rows of images (N, D) over each two-stage resample → (resamples, D)."""
    rng = np.random.default_rng(seed)
    # Equal images, and conditions of equal images, are drawn together with their multiplicity:
    # the same distribution from much fewer random numbers.
    rows, row = np.unique(images, axis=0, return_inverse=True)  # (R, D), (N,)
    group = np.unique(group, return_inverse=True)[1]
    counts = np.zeros((group.max() + 1, len(rows)), dtype=np.int64)  # of each row in each group
    np.add.at(counts, (group, row.reshape(-1)), 1)
    patterns, times = np.unique(counts, axis=0, return_counts=True)  # (P, R), (P,)
    drawn = rng.multinomial(len(counts), times / len(counts), size=resamples)  # (resamples, P)
    sums = np.zeros((resamples, images.shape[1]), dtype=np.int64)
    for pattern, repeats in zip(patterns, drawn.T, strict=True):
        held = pattern.nonzero()[0]
        size = pattern.sum()
        # m draws of `size` images each are one draw of m · size images
        sums += rng.multinomial(repeats * size, pattern[held] / size) @ rows[held]
    return sums
