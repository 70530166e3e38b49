"""How well do images show the labels that were asked for, as a classifier sees them?"""

from typing import NamedTuple

import numpy as np

from fromnoise.evaluation.intervals import Interval

SCORES = ("recall_at_k", "precision", "recall", "f1", "exact_match", "extra")

Ratio = tuple[np.ndarray, np.ndarray]
"""Numerator and denominator (N,) of a score, image by image: 0 ≤ numerator ≤ denominator."""


class LabelPredictions(NamedTuple):
    """What a classifier says of N images and K labels."""

    probability: np.ndarray  # float (N, K) in [0, 1]
    present: np.ndarray  # bool (N, K)


class LabelCounts(NamedTuple):
    """What the scores are sums of: int64 (N,) each, one number an image."""

    hits: np.ndarray  # wanted labels among the k likeliest, k being how many are wanted
    true_positive: np.ndarray  # wanted +1 and present
    false_positive: np.ndarray  # wanted −1 and present
    false_negative: np.ndarray  # wanted +1 and not present
    said: np.ndarray  # 1 if any label is wanted +1 or −1 …
    exact: np.ndarray  # … and 1 if all of those are right as well
    negated: np.ndarray  # 1 if any label is wanted −1 …
    extra: np.ndarray  # … and 1 if any of those is present as well


class LabelScores(NamedTuple):
    """How well one label is shown."""

    asked: int  # images in which it was wanted +1
    negated: int  # images in which it was wanted −1 …
    precision: Interval
    recall: Interval
    f1: Interval
    extra: Interval  # … and the share of those in which it is present


def label_counts(predictions: LabelPredictions, wanted: np.ndarray) -> LabelCounts:
    """Count in each image what the classifier found of the labels that were asked for.

    Args:
        predictions: of N images and K labels.
        wanted: (N, K): +1 must appear, −1 must not, 0 open. An open label counts in nothing; only
            in the ranking for `hits` it takes its place, as any label does.

    Returns:
        Counts (N,). Of equally probable labels the lower index ranks first in `hits`. A classifier
        whose probabilities round to 1 has many of those.

    Raises:
        ValueError: no image, shapes that do not belong together, probabilities outside [0, 1],
            `present` not bool, or `wanted` anything but −1, 0 and 1.
    """
    positive, negative, present = _check(predictions, wanted)
    # In float64, as the minus would wrap an unsigned integer around.
    likeliest_first = np.argsort(-predictions.probability.astype(np.float64), axis=1, kind="stable")
    ranked = np.take_along_axis(positive, likeliest_first, axis=1)  # (N, K)
    among_k = np.arange(ranked.shape[1]) < positive.sum(axis=1, keepdims=True)  # (N, K)
    true_positive, false_positive, false_negative = (
        flags.sum(axis=1) for flags in _confusion(positive, negative, present)
    )
    negated = negative.sum(axis=1) > 0
    said = negated | (positive.sum(axis=1) > 0)
    return LabelCounts(
        hits=(ranked & among_k).sum(axis=1),
        true_positive=true_positive,
        false_positive=false_positive,
        false_negative=false_negative,
        said=said.astype(np.int64),
        exact=(said & (false_positive + false_negative == 0)).astype(np.int64),
        negated=negated.astype(np.int64),
        extra=(false_positive > 0).astype(np.int64),
    )


def scores(counts: LabelCounts) -> dict[str, float]:
    """Return every score of SCORES, each a ratio of two sums over images.

    With TP, FP and FN summed over images and over the labels wanted +1 or −1 ("micro"):

    - recall_at_k = Σ hits / Σ k, as published for i-CLEVR: an image with k wanted labels scores
      how many of them are among the classifier's k largest probabilities of all K labels. It is blind
      to what else appears; precision, exact_match and extra are not;
    - precision = TP / (TP + FP), recall = TP / (TP + FN), f1 = 2 TP / (2 TP + FP + FN);
    - exact_match: of the images of which anything is said, the share in which all of it is right;
    - extra: of the images with a label that must not appear, the share in which one appears.

    Returns:
        Numbers in [0, 1]; NaN, and never 0 or 1, where a score is 0/0: `extra` if nothing was
        negated, `precision` if the classifier saw none of the labels.
    """
    return {name: _ratio(*ratio) for name, ratio in _ratios(counts).items()}


def score_with_intervals(
    predictions: LabelPredictions,
    wanted: np.ndarray,
    condition: np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the scores of `scores` with 95 % intervals, over new conditions and new seeds.

    A percentile bootstrap (Efron 1979) in two stages (Davison & Hinkley 1997, §3.8): as many
    conditions as there are, drawn with replacement, and for each of them as many of its images as
    it has, drawn with replacement. Resamples in which a score is 0/0 are left out. Where a score is
    defined in one condition only, its interval speaks of that condition alone: of other seeds.

    Images that all score alike, as with a score of 0 or 1, show no spread to resample. Then the
    interval is [r · value, r · value + 1 − r] with r = 0.025^(1/n), for 0 and 1 that of Clopper &
    Pearson 1934 for no event among n. Here n counts the conditions in which the score is defined,
    as the images of one may all be right or wrong together; if that is one condition, its images.

    How often such an interval holds the truth was simulated. Where conditions differ much
    (intraclass correlation 0.25) and have 100 images each: 94 % with 40 conditions, 92 % with 10,
    87 % with 5, 78 % with 3 and 62 % with 2. Where they do not differ and have several images each:
    98 to 99 %, as the second stage counts the spread among seeds once more.

    Args:
        predictions, wanted: as for `label_counts`.
        condition: int (N,), which condition each image was drawn for: any integers, in any order.
        resamples: how often to draw, ≥ 1.
        seed: the same seed gives the same intervals, whatever the order of the images and the
            names of the conditions.

    Raises:
        ValueError: as `label_counts`, or a wrong shape of `condition`, or no resample.
    """
    ratios = _ratios(label_counts(predictions, wanted)).values()
    group = _groups(condition, len(wanted))
    return dict(zip(SCORES, _intervals(list(ratios), group, resamples, seed), strict=True))


def scores_per_label(
    predictions: LabelPredictions,
    wanted: np.ndarray,
    condition: np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[LabelScores]:
    """Return precision, recall, f1 and extra of each label alone, in the order of the labels.

    Arguments, NaN and errors are those of `score_with_intervals`, and so are intervals, but that
    the conditions that ask for a label, those that negate it and those that leave it open are drawn
    as often as they were: a draw without any that asks would say nothing. The images in which a
    label is open count neither for nor against it.
    """
    positive, negative, present = _check(predictions, wanted)
    group = _groups(condition, len(wanted))
    flags = (positive, negative, *_confusion(positive, negative, present))
    rows = []
    for label in zip(*(each.T.astype(np.int64) for each in flags), strict=True):
        asked, negated, tp, fp, fn = label
        ratios = [*_precision_recall_f1(tp, fp, fn), (fp, negated)]
        intervals = _intervals(ratios, group, resamples, seed, strata=asked - negated)
        rows.append(LabelScores(int(asked.sum()), int(negated.sum()), *intervals))
    return rows


def _confusion(
    positive: np.ndarray, negative: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return positive & present, negative & present, positive & ~present


def _precision_recall_f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> tuple[Ratio, ...]:
    return (tp, tp + fp), (tp, tp + fn), (2 * tp, 2 * tp + fp + fn)


def _ratios(counts: LabelCounts) -> dict[str, Ratio]:
    tp, fn = counts.true_positive, counts.false_negative
    each = (
        (counts.hits, tp + fn),  # k: a wanted label is found or missed
        *_precision_recall_f1(tp, counts.false_positive, fn),
        (counts.exact, counts.said),
        (counts.extra, counts.negated),
    )
    return dict(zip(SCORES, each, strict=True))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    total = int(denominator.sum())
    return int(numerator.sum()) / total if total else float("nan")


def _intervals(
    ratios: list[Ratio],
    group: np.ndarray,
    resamples: int,
    seed: int,
    *,
    strata: np.ndarray | None = None,
) -> list[Interval]:
    numerators, denominators = (np.stack(part, axis=1) for part in zip(*ratios, strict=True))
    images = np.concatenate([numerators, denominators], axis=1)
    strata = np.zeros(len(images)) if strata is None else strata
    sums = sum(
        _resampled_sums(images[strata == each], group[strata == each], resamples, seed + i)
        for i, each in enumerate(np.unique(strata))
    )
    assert isinstance(sums, np.ndarray)
    intervals = []
    for i, (numerator, denominator) in enumerate(ratios):
        value = _ratio(numerator, denominator)
        # Equal to the value in every image that has a ratio; and so everywhere, if it is NaN.
        if (numerator * denominator.sum() == denominator * numerator.sum()).all():
            low, high = _without_spread(value, denominator > 0, group)
        else:
            top, bottom = sums[:, i], sums[:, i + len(ratios)]
            drawn = top[bottom > 0] / bottom[bottom > 0]
            low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
        intervals.append(Interval(value, float(low), float(high)))
    return intervals


def _without_spread(value: float, defined: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    if np.isnan(value):
        return value, value
    # If a share q of a condition's images is expected to differ, all are alike with a probability
    # of at most 1 − q, however they hang together; in n conditions with at most (1 − mean q)ⁿ.
    n = len(np.unique(group[defined]))
    n = n if n > 1 else int(defined.sum())
    alike = 0.025 ** (1 / n)
    return alike * value, alike * value + (1 - alike)


def _resampled_sums(images: np.ndarray, group: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sum the rows of images (N, D) over each two-stage resample → (resamples, D)."""
    if resamples < 1:
        raise ValueError(f"expected at least 1 resample, got {resamples}")
    rng = np.random.default_rng(seed)
    # Equal images, and conditions of equal images, are drawn as one with their multiplicity:
    # the same distribution from far fewer random numbers.
    rows, row = np.unique(images, axis=0, return_inverse=True)  # (R, D), (N,)
    group = np.unique(group, return_inverse=True)[1]
    table = np.zeros((group.max() + 1, len(rows)), dtype=np.int64)  # how often which row is where
    np.add.at(table, (group, row.reshape(-1)), 1)
    kinds, times = np.unique(table, axis=0, return_counts=True)  # (P, R), (P,)
    drawn = rng.multinomial(len(table), times / len(table), size=resamples)  # (resamples, P)
    sums = np.zeros((resamples, images.shape[1]), dtype=np.int64)
    for kind, often in zip(kinds, drawn.T, strict=True):
        held = kind.nonzero()[0]
        size = kind.sum()
        # m draws of `size` images each are one draw of m · size images.
        sums += rng.multinomial(often * size, kind[held] / size) @ rows[held]
    return sums


def _groups(condition: np.ndarray, num_images: int) -> np.ndarray:
    if condition.shape != (num_images,):
        raise ValueError(f"expected one condition an image, ({num_images},), got {condition.shape}")
    return np.unique(condition, return_inverse=True)[1]


def _check(
    predictions: LabelPredictions, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probability, present = predictions
    shapes = probability.shape, present.shape, wanted.shape
    if wanted.ndim != 2 or len(set(shapes)) > 1 or not wanted.size:
        raise ValueError(
            "expected probability, present and wanted of one shape (N, K), not empty, got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if present.dtype != np.bool_:
        raise ValueError(f"expected present to be bool, got {present.dtype}: choose a threshold")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(
            "expected probabilities in [0, 1], got "
            f"{probability.min()} to {probability.max()}: logits need a sigmoid first"
        )
    if not np.isin(wanted, (-1, 0, 1)).all():
        raise ValueError(f"expected wanted to be −1, 0 or 1, got {wanted.min()} to {wanted.max()}")
    return wanted == 1, wanted == -1, present
