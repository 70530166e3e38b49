"""How good are the samples? Numbers that compare two sets of images."""

from fromnoise.evaluation.frechet import frechet_distance
from fromnoise.evaluation.label_scores import (
    SCORES,
    Interval,
    LabelCounts,
    LabelScores,
    Verdicts,
    label_counts,
    score_with_intervals,
    scores,
    scores_per_label,
)
from fromnoise.evaluation.moments import Moments, merged, moments_of
from fromnoise.evaluation.neighbours import (
    CopyCheck,
    copy_check,
    nearest,
    one_nearest_neighbour_accuracy,
)
from fromnoise.evaluation.set_metrics import (
    frechet_scores,
    inception_score,
    kernel_distance,
    precision_and_recall,
)

__all__ = [
    "SCORES",
    "CopyCheck",
    "Interval",
    "LabelCounts",
    "LabelScores",
    "Moments",
    "Verdicts",
    "copy_check",
    "frechet_distance",
    "frechet_scores",
    "inception_score",
    "kernel_distance",
    "label_counts",
    "merged",
    "moments_of",
    "nearest",
    "one_nearest_neighbour_accuracy",
    "precision_and_recall",
    "score_with_intervals",
    "scores",
    "scores_per_label",
]
