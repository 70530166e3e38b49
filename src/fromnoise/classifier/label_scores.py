"""Score predicted labels against target labels: recall@k, precision, recall, F1, exact match."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

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
