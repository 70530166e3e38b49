"""How good are the samples? Numbers that compare two sets of images."""

from fromnoise.evaluation.frechet import frechet_distance, gaussian_of, pixel_features
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
from fromnoise.evaluation.neighbours import (
    CopyCheck,
    copy_check,
    nearest,
    one_nearest_neighbour_accuracy,
)

__all__ = [
    "SCORES",
    "CopyCheck",
    "Interval",
    "LabelCounts",
    "LabelScores",
    "Verdicts",
    "copy_check",
    "frechet_distance",
    "gaussian_of",
    "label_counts",
    "nearest",
    "one_nearest_neighbour_accuracy",
    "pixel_features",
    "score_with_intervals",
    "scores",
    "scores_per_label",
]
