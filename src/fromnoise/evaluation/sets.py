"""Metrics of a set of generated images, compared with real ones.

A metric is a function of a `Subject` that returns a part of the record: {"scores": {name: {"value",
"low", "high"}}}, or a key of its own. It raises `NotDefined` with the reason if it is not defined.
To add one, write the function, add a line to METRICS, and a test.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError, unknown_name
from fromnoise.evaluation.copies import MAX_LEFT_OUT, MIN_IMAGES, Space, check_copies, left_out_rows
from fromnoise.evaluation.copy_report import copies_as_json, save_copy_sheet
from fromnoise.evaluation.features import (
    PRETRAINED,
    Extractor,
    ExtractorError,
    extract_features,
    extract_in_parts,
)
from fromnoise.evaluation.images import Generated, RealImages, RunImages, evenly_spaced
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.metrics import (
    BLOCKS,
    blocks_of,
    frechet_scores,
    inception_score,
    kernel_distance,
    precision_and_recall,
)
from fromnoise.evaluation.records import Record
from fromnoise.evaluation.reference import Reference, reference_of
from fromnoise.progress import progress_bar

SHEET = "copies.png"
MIN_PER_FEATURE = 3  # images per feature, for FID∞
MIN_REAL = 2  # images, for a covariance


class Subject(NamedTuple):
    """The images to score, their features, and what metrics compare them with."""

    generated: Generated
    features: np.ndarray  # float32 (N, D), in the order of the seeds
    logits: np.ndarray | None  # float32 (N, K)
    reference: Reference
    extractor: Extractor
    run_images: RunImages
    folder: Path  # for pictures

    def in_blocks(self) -> np.ndarray:
        """Return the features in an order whose stretches are alike."""
        order = self.generated.block_order
        return self.features if order is None else self.features[order]

    def real(self) -> np.ndarray:
        """Return the features of the real images."""
        assert self.reference.features is not None
        return self.reference.features


def fid(subject: Subject) -> Record:
    """Return the Fréchet distance (FID if the features are Inception's) and FID∞."""
    blocks, reference = blocks_of(subject.in_blocks()), subject.reference
    value, at_infinity = frechet_scores(blocks, reference.mean, reference.covariance)
    if len(subject.features) < MIN_PER_FEATURE * subject.extractor.width:
        reason = f"{MIN_PER_FEATURE} images per feature are needed, of {subject.extractor.width:,}"
        return {**_scores(fid=value), "missing": {"fid_infinity": reason}}
    return _scores(fid=value, fid_infinity=at_infinity)


def kid(subject: Subject) -> Record:
    """Return the kernel distance."""
    return _scores(kid=kernel_distance(subject.in_blocks(), subject.real()))


def isc(subject: Subject) -> Record:
    """Return the Inception Score, by the classes of the extractor."""
    assert subject.logits is not None
    return _scores(inception_score=inception_score(subject.logits))


def prc(subject: Subject) -> Record:
    """Return precision and recall."""
    precision, recall = precision_and_recall(subject.features, subject.real())
    return _scores(precision=precision, recall=recall)


def copies(subject: Subject) -> Record:
    """Find copies of training images, in pixels and in the features of the extractor."""
    training, held_out, _ = subject.run_images
    assert training is not None
    extractor, images, train = subject.extractor, subject.generated.images, training.images.images
    real = None if held_out is None else evenly_spaced(held_out.images.images, MAX_LEFT_OUT)
    pixels = extractor.name == "pixels"
    space = {} if pixels else {f"the features of {extractor.name}": _space(subject, training, real)}
    check = check_copies(images, train, real, spaces=space)
    save_copy_sheet(check, images, train, subject.folder / SHEET)
    return {"copies": {**copies_as_json(check), "sheet": SHEET}}


METRICS: dict[str, Callable[[Subject], Record]] = {
    "fid": fid,
    "kid": kid,
    "is": isc,
    "prc": prc,
    "copies": copies,
}


def check_metrics(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown metric."""
    for name in names:
        if name == "bits":
            raise ConfigError("--metrics bits is a command of its own. Use fromnoise likelihood.")
        if name not in METRICS:
            raise ConfigError(f"--metrics {unknown_name(name, METRICS)}")


def check_enough_images(
    num: int, num_real: int | None, extractor: Extractor, *, allow_small: bool = False
) -> None:
    """Raise ExtractorError for almost no images, or for fewer than features unless `allow_small`.

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


def undefined_metrics(
    metrics: Sequence[str],
    shape: tuple[int, int, int],
    num_real: int | None,
    extractor: Extractor,
    run_images: RunImages,
) -> dict[str, str]:
    """Return the reasons of metrics that are not defined for a set of images, before it is sampled.

    shape: (C, H, W) of the images. num_real: None if the reference is a mean and a covariance.
    Raises ConfigError if no metric is defined.
    """

    def reason(metric: str) -> str | None:
        training, few = run_images.training, "{} images are too few, {} are needed".format
        if metric in ("kid", "prc") and num_real is None:
            return "the reference is a mean and a covariance, not images"
        if metric in ("kid", "prc") and num_real is not None and num_real < 2 * BLOCKS:
            return few(f"{num_real} real", 2 * BLOCKS)
        if metric == "is":
            one = np.zeros((1, *shape), dtype=np.uint8)
            if extractor.extract(one).logits is None:
                return "the extractor has no classes; use inception or a classifier"
        if metric == "copies" and training is None:
            return run_images.reason
        if metric == "copies" and training is not None and len(training.images) < MIN_IMAGES:
            return few(f"{len(training.images)} training", MIN_IMAGES)
        return None

    reasons = {metric: why for metric in metrics if (why := reason(metric))}
    if metrics and len(reasons) == len(metrics):
        listed = "; ".join(f"{metric}: {why}" for metric, why in reasons.items())
        raise ConfigError(f"no metric of --metrics is available ({listed}). Choose others.")
    return reasons


def subject_of(
    generated: Generated,
    reference: Reference,
    extractor: Extractor,
    run_images: RunImages,
    folder: Path,
) -> Subject:
    """Return generated images with their features, for metrics."""
    with progress_bar("features") as progress:
        parts = [part for _, part in extract_in_parts(extractor, generated.images, progress)]
    features, logits = np.concatenate([part.features for part in parts]), None
    if parts[0].logits is not None:
        logits = np.concatenate([part.logits for part in parts if part.logits is not None])
    return Subject(generated, features, logits, reference, extractor, run_images, folder)


def marks(num: int, reference: Reference, extractor: Extractor) -> list[str]:
    """Return warnings to the reader of the scores."""
    warnings = []
    if num < extractor.width:
        warnings.append(
            f"Small: {num:,} images in {extractor.width:,} dimensions. The Fréchet distance of so "
            "few is far too large. Compare it only with the same number of images."
        )
    real = reference.features
    if real is not None and len(real) < extractor.width:
        warnings.append(
            f"The reference is small: {len(real):,} images in {extractor.width:,} dimensions."
        )
    if extractor.name not in PRETRAINED:
        warnings.append(
            f"Distances in the features of {extractor.name} are not FIDs. Compare them only with "
            "distances in the same features."
        )
    return warnings


def _scores(**scores: Interval) -> Record:
    return {"scores": {name: score._asdict() for name, score in scores.items()}}


def _space(subject: Subject, training: RealImages, held_out: np.ndarray | None) -> Space:
    """Return the extractor's features of all images that a check for copies compares."""
    features = partial(extract_features, subject.extractor)
    train = reference_of(training, subject.extractor).features
    assert train is not None
    rows = left_out_rows(len(train))
    real = training.images.images[rows] if held_out is None else held_out
    return Space(
        subject.features,
        features(subject.generated.images[..., ::-1]),
        train,
        train[rows] if held_out is None else features(held_out),
        features(real[..., ::-1]),
    )
