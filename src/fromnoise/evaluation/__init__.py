"""How good are the samples? Numbers that compare two sets of images."""

from fromnoise.classifier.label_scores import (
    SCORES,
    LabelCounts,
    LabelPredictions,
    label_counts,
    scores,
)
from fromnoise.evaluation.copies import CopyCheck, Space, check_copies, space_of
from fromnoise.evaluation.copy_report import copies_as_json, copy_verdict, save_copy_sheet
from fromnoise.evaluation.fid import Moments, frechet_distance, merged, moments_of
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.label_intervals import (
    LabelScores,
    score_with_intervals,
    scores_per_label,
)
from fromnoise.evaluation.metrics import (
    frechet_scores,
    inception_score,
    kernel_distance,
    precision_and_recall,
)
from fromnoise.evaluation.neighbours import nearest, one_nearest_neighbour_accuracy

__all__ = [
    "SCORES",
    "CopyCheck",
    "Interval",
    "LabelCounts",
    "LabelPredictions",
    "LabelScores",
    "Moments",
    "Space",
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
