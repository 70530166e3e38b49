"""How good are the samples? Numbers that compare two sets of images."""

from fromnoise.evaluation.copies import CopyCheck, Space, check_copies, space_of
from fromnoise.evaluation.copy_report import copies_as_json, copy_verdict, save_copy_sheet
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
from fromnoise.evaluation.neighbours import nearest, one_nearest_neighbour_accuracy
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
    "Space",
    "Verdicts",
    "check_copies",
    "copies_as_json",
    "copy_verdict",
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
    "save_copy_sheet",
    "score_with_intervals",
    "scores",
    "scores_per_label",
    "space_of",
]
