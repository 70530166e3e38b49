"""How good are the samples? Numbers that compare two sets of images."""

from fromnoise.evaluation.frechet import frechet_distance, gaussian_of, pixel_features
from fromnoise.evaluation.neighbours import (
    CopyCheck,
    copy_check,
    nearest,
    one_nearest_neighbour_accuracy,
)

__all__ = [
    "CopyCheck",
    "copy_check",
    "frechet_distance",
    "gaussian_of",
    "nearest",
    "one_nearest_neighbour_accuracy",
    "pixel_features",
]
