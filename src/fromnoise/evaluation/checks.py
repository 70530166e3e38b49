"""What is seen before anything is drawn: that a set cannot be scored, or not by every score."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.evaluation.copies import FEWEST
from fromnoise.evaluation.features import Extractor, ExtractorError
from fromnoise.evaluation.images import Known
from fromnoise.evaluation.metrics import BLOCKS
from fromnoise.evaluation.records import require_no_scores

FEWEST_REAL = 2  # images, of which there is a covariance


class Given(NamedTuple):
    """What is known of an evaluation before an hour is spent on drawing."""

    num: int  # generated images
    shape: tuple[int, int, int]  # (C, H, W) of theirs
    num_real: int | None  # None where the reference is a mean and a covariance
    extractor: Extractor
    known: Known
    with_model: bool


def check_request(
    given: Given, metrics: Sequence[str], folder: Path, *, allow_small: bool = False
) -> None:
    """Raise what makes an evaluation impossible, or not worth its time.

    ConfigError where `folder` has scores already and where none of the metrics can be had;
    ExtractorError for fewer images than features, generated or real, unless `allow_small`.
    """
    require_no_scores(folder)
    check_enough_images(given.num, given.num_real, given.extractor, allow_small=allow_small)
    reasons = {metric: reason_unavailable(metric, given) for metric in metrics}
    if reasons and all(reasons.values()):
        listed = "; ".join(f"{metric}: {reason}" for metric, reason in reasons.items())
        raise ConfigError(f"--metrics has no score that can be had here: {listed}; ask for others")


def check_enough_images(
    num: int, num_real: int | None, extractor: Extractor, *, allow_small: bool = False
) -> None:
    """Raise ExtractorError for fewer images than features, or for almost none.

    num_real: None where there are no real images to be counted.
    """
    asked = [("images", num, 2 * BLOCKS, "give")]
    if num_real is not None:
        asked.append(("real images", num_real, FEWEST_REAL, "give --reference"))
    for what, count, fewest, give in asked:
        if count < fewest:
            raise ExtractorError(
                f"{count} {what} are too few to say anything about a set; {give} at least {fewest}"
            )
        if count < extractor.width and not allow_small:
            raise ExtractorError(
                f"{count:,} {what} are fewer than the {extractor.width:,} features of "
                f"{extractor.name}, and the Fréchet distance of so few is far too large; {give} "
                "more (10,000 or 50,000 are usual), or --allow-small to have it all the same, "
                "marked"
            )


def reason_unavailable(metric: str, given: Given) -> str | None:
    """Why a metric is not defined here; None where nothing speaks against it."""
    training, held_out, unknown = given.known
    match metric:
        case "kid" | "prc":
            if given.num_real is None:
                return "the reference is a mean and a covariance, and this needs images"
            if given.num_real < 2 * BLOCKS:
                return f"{given.num_real} real images are too few; it needs {2 * BLOCKS}"
        case "is":
            one = np.zeros((1, *given.shape), dtype=np.uint8)
            if given.extractor.extract(one).logits is None:
                return "it needs an extractor that tells classes apart: inception, or a classifier"
        case "copies":
            if training is None:
                return unknown
            if len(training.images) < FEWEST:
                return f"it needs {FEWEST} training images, and there are {len(training.images)}"
        case "bits":
            if not given.with_model:
                return "it needs the model, and images that its run knows"
            if training is held_out is None:
                return f"bits are of real images, and {unknown}"
    return None
