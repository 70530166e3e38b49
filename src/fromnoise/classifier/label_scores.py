"""Score predicted labels against target labels: recall@k, precision, recall, F1, exact match.

Their 95 % intervals are those of a bootstrap.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from fromnoise.evaluation.intervals import Interval, Score

SCORES = ("recall_at_k", "precision", "recall", "f1", "exact_match", "extra")

Ratio = tuple[np.ndarray, np.ndarray]
"""Numerator and denominator (N,) of a score, one per image: 0 ≤ numerator ≤ denominator."""


class LabelPredictions(NamedTuple):
    """The predictions of a classifier for N images and K labels."""

    probability: np.ndarray  # float (N, K) in [0, 1]
    present: np.ndarray  # bool (N, K)

    def select(self, images: slice | np.ndarray, labels: slice | list[int]) -> "LabelPredictions":
        """Return the predictions for some of the images and some of the labels."""
        return LabelPredictions(*(part[images][:, labels] for part in self))


def score_ratios(predictions: LabelPredictions, targets: np.ndarray) -> dict[str, Ratio]:
    """Return numerator and denominator of every score of SCORES, for each image; see `scores`.

    predictions: of N images and K labels. targets: (N, K): +1 must appear, −1 must not appear, 0
    open. An open label counts only in the ranking for `recall_at_k`, where it takes up a rank like
    any other label. Among equally probable labels the lower index ranks first. Such ties are
    frequent if the probabilities of a classifier round to 1.
    """
    positive, negative, present = targets == 1, targets == -1, predictions.present  # (N, K)
    # In float64, because the minus would wrap an unsigned integer around.
    likeliest_first = np.argsort(-predictions.probability.astype(np.float64), axis=1, kind="stable")
    ranked = np.take_along_axis(positive, likeliest_first, axis=1)  # (N, K)
    among_k = np.arange(ranked.shape[1]) < positive.sum(axis=1, keepdims=True)  # (N, K)
    tp, fp, fn = (
        counted.sum(axis=1)
        for counted in (positive & present, negative & present, positive & ~present)
    )
    labelled = (positive | negative).any(axis=1).astype(np.int64)
    ratios = (
        ((ranked & among_k).sum(axis=1), tp + fn),
        (tp, tp + fp),
        (tp, tp + fn),
        (2 * tp, 2 * tp + fp + fn),
        (labelled * (fp + fn == 0), labelled),
        ((fp > 0).astype(np.int64), negative.any(axis=1).astype(np.int64)),
    )
    return dict(zip(SCORES, ratios, strict=True))


def ratios_per_label(predictions: LabelPredictions, targets: np.ndarray) -> list[dict[str, Ratio]]:
    """Return the `score_ratios` of each label alone."""
    of_each = (predictions.select(slice(None), [k]) for k in range(targets.shape[1]))
    return [score_ratios(of, targets[:, [k]]) for k, of in enumerate(of_each)]


def scores(ratios: Mapping[str, Ratio]) -> dict[str, float]:
    """Return every score of SCORES, each a ratio of two sums over images.

    TP, FP and FN are summed over images and over the labels with target +1 or −1 ("micro"):

    - recall_at_k = Σ hits / Σ k, as published for i-CLEVR: an image with k targets of +1 scores
      how many of them are among the classifier's k largest probabilities of all K labels. It does
      not measure what else appears; precision, exact_match and extra do;
    - precision = TP / (TP + FP), recall = TP / (TP + FN), f1 = 2 TP / (2 TP + FP + FN);
    - exact_match: among the images with any target of +1 or −1, the share with all of them right;
    - extra: among the images with a target of −1, the share in which such a label appears.

    They are in [0, 1]; NaN, and never 0 or 1, where a score is 0/0: `extra` if no target is −1,
    `precision` if none of the labels is predicted present.
    """
    return {name: ratio_of_sums(*ratio) for name, ratio in ratios.items()}


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """Return Σ numerator / Σ denominator, or NaN for 0/0."""
    total = int(denominator.sum())
    return int(numerator.sum()) / total if total else float("nan")


class LabelScores(BaseModel):
    """The scores of one label."""

    asked: int = 0  # images with target +1
    negated: int = 0  # images with target −1
    precision: Score = Interval()
    recall: Score = Interval()
    f1: Score = Interval()
    extra: Score = Interval()  # share of the negated images in which the label is present


def score_with_intervals(
    predictions: LabelPredictions, targets: np.ndarray, condition: np.ndarray, **bootstrap: int
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
    ratios = list(score_ratios(predictions, targets).values())
    one = np.zeros(len(targets))
    return dict(zip(SCORES, _intervals(ratios, condition, one, **bootstrap), strict=True))


def scores_per_label(
    predictions: LabelPredictions, targets: np.ndarray, condition: np.ndarray, **bootstrap: int
) -> list[LabelScores]:
    """Return precision, recall, f1 and extra of each label alone, in the order of the labels.

    Arguments and NaN are those of `score_with_intervals`. The bootstrap is stratified: it
    draws the conditions with target +1, −1 and 0 for this label as often as they occur, because a
    resample without any +1 would leave the scores undefined. Images in which the label is open do
    not count.
    """
    results = []
    names = ("precision", "recall", "f1", "extra")
    for k, ratios in enumerate(ratios_per_label(predictions, targets)):
        intervals = _intervals([ratios[n] for n in names], condition, targets[:, k], **bootstrap)
        asked, negated = (int((targets[:, k] == sign).sum()) for sign in (1, -1))
        found = dict(zip(names, intervals, strict=True))
        results.append(LabelScores(asked=asked, negated=negated, **found))
    return results


def _intervals(
    ratios: list[Ratio], group: np.ndarray, strata: np.ndarray, resamples: int = 2000, seed: int = 0
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
        value = ratio_of_sums(numerator, denominator)
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
