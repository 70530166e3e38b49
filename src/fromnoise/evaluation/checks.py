"""Check an evaluation before it starts: is there enough, and which metrics are available?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.evaluation.copies import MIN_IMAGES
from fromnoise.evaluation.features import Extractor, ExtractorError
from fromnoise.evaluation.images import RunImages
from fromnoise.evaluation.metrics import BLOCKS
from fromnoise.evaluation.records import require_no_scores

MIN_REAL = 2  # images, for a covariance


class Request(NamedTuple):
    """The facts of an evaluation that are known before an hour of sampling."""

    num: int  # generated images
    shape: tuple[int, int, int]  # (C, H, W) of them
    num_real: int | None  # None if the reference is a mean and a covariance
    extractor: Extractor
    run_images: RunImages


def check_request(
    request: Request, metrics: Sequence[str], folder: Path, *, allow_small: bool = False
) -> None:
    """Raise an error for an evaluation that is impossible, or not worth its time.

    ConfigError if `folder` has scores or no metric is available. ExtractorError for fewer images
    than features, generated or real, unless `allow_small`.
    """
    require_no_scores(folder)
    check_enough_images(request.num, request.num_real, request.extractor, allow_small=allow_small)
    reasons = {metric: reason_unavailable(metric, request) for metric in metrics}
    if reasons and all(reasons.values()):
        listed = "; ".join(f"{metric}: {reason}" for metric, reason in reasons.items())
        raise ConfigError(f"no metric of --metrics is available ({listed}). Choose others.")


def check_enough_images(
    num: int, num_real: int | None, extractor: Extractor, *, allow_small: bool = False
) -> None:
    """Raise ExtractorError for fewer images than features, or for almost none.

    num_real: None if the reference is a mean and a covariance.
    """
    counts = [("images", num, 2 * BLOCKS, "Use")]
    if num_real is not None:
        counts.append(("real images", num_real, MIN_REAL, "Give --reference"))
    for what, count, fewest, use in counts:
        if count < fewest:
            raise ExtractorError(f"{count} {what} are too few. {use} at least {fewest}.")
        if count < extractor.width and not allow_small:
            raise ExtractorError(
                f"{count:,} {what} are fewer than the {extractor.width:,} features of "
                f"{extractor.name}, which makes the Fréchet distance far too large. {use} more "
                "(10,000 or 50,000 are usual), or add --allow-small to get marked scores."
            )


def reason_unavailable(metric: str, request: Request) -> str | None:
    """Return why a metric is not defined for a request, or None if it is."""
    training, _, unknown = request.run_images
    match metric:
        case "kid" | "prc":
            if request.num_real is None:
                return "the reference is a mean and a covariance, not images"
            if request.num_real < 2 * BLOCKS:
                return f"{request.num_real} real images are too few, {2 * BLOCKS} are needed"
        case "is":
            one = np.zeros((1, *request.shape), dtype=np.uint8)
            if request.extractor.extract(one).logits is None:
                return "the extractor has no classes; use inception or a classifier"
        case "copies":
            if training is None:
                return unknown
            if len(training.images) < MIN_IMAGES:
                return (
                    f"{len(training.images)} training images are too few, {MIN_IMAGES} are needed"
                )
    return None
