"""How good are generated images as a set? Every number, with all that it depends on.

    set-…/metrics.json    scores with their intervals, and the circumstances
          metrics.md      the same as a table
          bits.png        bits per dimension over t, where they were asked for
          copies.png      generated images beside the training images that they are nearest to

The first two are written anew after every metric, so that none is lost with what comes next.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError, unknown
from fromnoise.evaluation.checks import Given, check_request, reason_unavailable
from fromnoise.evaluation.copies import MOST_LEFT_OUT, Space, check_copies, left_out
from fromnoise.evaluation.copy_report import copies_as_json, save_copy_sheet
from fromnoise.evaluation.features import (
    PRETRAINED,
    Extractor,
    in_parts,
)
from fromnoise.evaluation.fid import moments_of
from fromnoise.evaluation.generated import Generated
from fromnoise.evaluation.images import UNKNOWN, Known, Real, evenly
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.likelihood import bits_of_a_run
from fromnoise.evaluation.metrics import (
    BLOCKS,
    frechet_scores,
    inception_score,
    kernel_distance,
    precision_and_recall,
)
from fromnoise.evaluation.records import (
    NotDefined,
    Record,
    new_record,
    published_beside,
    write_record,
)
from fromnoise.evaluation.reference import Reference, reference_of
from fromnoise.model.model import Model
from fromnoise.progress import progress_bar

SHEET = "copies.png"
AT_LEAST = 3  # images for each feature, from which on FID∞ is right


class Subject(NamedTuple):
    """What is scored, and all that scores may need to know."""

    generated: Generated
    features: np.ndarray  # float32 (N, D), in the order of the seeds
    logits: np.ndarray | None  # float32 (N, K)
    reference: Reference
    extractor: Extractor
    known: Known
    model: Model | None
    folder: Path  # for pictures

    def in_blocks(self) -> np.ndarray:
        """The features in an order any stretch of which is like any other."""
        order = self.generated.blocks
        return self.features if order is None else self.features[order]

    def real(self) -> np.ndarray:
        """The features of the real images, where they are known."""
        assert self.reference.features is not None
        return self.reference.features


def fid(of: Subject) -> Record:
    """The Fréchet distance, which is FID in the features of Inception, and FID∞."""
    blocks = [moments_of(block) for block in np.array_split(of.in_blocks(), BLOCKS)]
    value, at_infinity = frechet_scores(blocks, of.reference.mean, of.reference.covariance)
    if len(of.features) < AT_LEAST * of.extractor.width:
        why = f"it needs {AT_LEAST} images for each of the {of.extractor.width:,} features"
        return {**_scores(fid=value), "missing": {"fid_infinity": why}}
    return _scores(fid=value, fid_infinity=at_infinity)


def kid(of: Subject) -> Record:
    """The kernel distance."""
    return _scores(kid=kernel_distance(of.in_blocks(), of.real()))


def isc(of: Subject) -> Record:
    """The Inception Score, of whatever classifier the extractor is."""
    assert of.logits is not None
    return _scores(inception_score=inception_score(of.logits))


def prc(of: Subject) -> Record:
    """Precision and recall."""
    precision, recall = precision_and_recall(of.features, of.real())
    return _scores(precision=precision, recall=recall)


def copies(of: Subject) -> Record:
    """Copies of training images, in pixels and in the features of the extractor."""
    training, held_out = of.known.training, of.known.held_out
    assert training is not None
    made, train = of.generated.images, training.images.images
    real = None if held_out is None else evenly(held_out.images.images, MOST_LEFT_OUT)
    spaces = [] if of.extractor.name == "pixels" else [_space(of, training, real)]
    check = check_copies(made, train, real, spaces=spaces)
    save_copy_sheet(check, made, train, of.folder / SHEET)
    return {"copies": {**copies_as_json(check), "sheet": SHEET}}


def bits(of: Subject) -> Record:
    """Bits per dimension of real images, of held-out ones where there are some."""
    assert of.model is not None
    with progress_bar("images whose bits are counted") as progress:
        return bits_of_a_run(of.model, of.known, of.folder, progress=progress)


METRICS: dict[str, Callable[[Subject], Record]] = {
    "fid": fid,
    "kid": kid,
    "is": isc,
    "prc": prc,
    "copies": copies,
    "bits": bits,
}
USUAL = tuple(name for name in METRICS if name != "bits")  # which takes as long as many images


def _scores(**scores: Interval) -> Record:
    return {"scores": {name: score._asdict() for name, score in scores.items()}}


def _space(of: Subject, training: Real, held_out: np.ndarray | None) -> Space:
    """The extractor's features of all that a check for copies compares."""

    def features(images: np.ndarray) -> np.ndarray:
        return np.concatenate([part.features for _, part in in_parts(of.extractor, images)])

    train = reference_of(training, of.extractor).features
    assert train is not None
    rows = left_out(len(train))
    real = training.images.images[rows] if held_out is None else held_out
    return Space(
        f"the features of {of.extractor.name}",
        of.features,
        features(of.generated.images[..., ::-1]),
        train,
        train[rows] if held_out is None else features(held_out),
        features(real[..., ::-1]),
    )


def evaluate_set(
    generated: Generated,
    reference: Reference,
    extractor: Extractor,
    folder: Path,
    *,
    known: Known = UNKNOWN,
    model: Model | None = None,
    metrics: Sequence[str] = USUAL,
    allow_small: bool = False,
) -> Record:
    """Score generated images against real ones, and return what metrics.json holds then.

    known, model: what a check for copies and bits per dimension need. A metric that is not defined
    for these sets is named there with the reason.
    Raises ConfigError for an unknown metric, and what `check_request` raises.
    """
    check_metrics(metrics)
    given = Given(
        num=len(generated.images),
        shape=generated.images.shape[1:],
        num_real=None if reference.features is None else len(reference.features),
        extractor=extractor,
        known=known,
        with_model=model is not None,
    )
    check_request(given, metrics, folder, allow_small=allow_small)
    record = new_record() | {
        "generated": generated.said,
        "reference": reference.said,
        "extractor": {key: v for key, v in extractor._asdict().items() if key != "extract"},
        "marks": marks(len(generated.images), reference, extractor),
        "seconds": {"drawing": generated.seconds},
    }
    started = time.perf_counter()
    with progress_bar("features") as progress:
        parts = [part for _, part in in_parts(extractor, generated.images, progress)]
    logits = [part.logits for part in parts if part.logits is not None]
    subject = Subject(
        generated,
        np.concatenate([part.features for part in parts]),
        np.concatenate(logits) if logits else None,
        reference,
        extractor,
        known,
        model,
        folder,
    )
    record["seconds"]["features"] = time.perf_counter() - started
    for name in metrics:
        started = time.perf_counter()
        try:
            if reason := reason_unavailable(name, given):
                raise NotDefined(reason)
            found = METRICS[name](subject)
        except ValueError as reason:  # it is not defined, or the images are not fit for it
            record["missing"][name] = str(reason)
        else:
            record |= {key: record.get(key, {}) | value for key, value in found.items()}
            record["seconds"][name] = time.perf_counter() - started
        write_record(folder, record)
    record |= {"complete": True, "published": published_beside(record)}
    write_record(folder, record)
    return record


def check_metrics(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown metric."""
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"--metrics {unknown(name, METRICS)}")


def marks(num: int, reference: Reference, extractor: Extractor) -> list[str]:
    """What a reader of the numbers must know, in sentences."""
    said = []
    if num < extractor.width:
        said.append(
            f"Small: {num:,} images in {extractor.width:,} dimensions. The Fréchet distance of so "
            "few is far too large; compare it with nothing but the same number of images."
        )
    real = reference.features
    if real is not None and len(real) < extractor.width:
        said.append(
            f"The reference is small: {len(real):,} images in {extractor.width:,} dimensions."
        )
    if extractor.name not in PRETRAINED:
        said.append(
            f"Distances in the features of {extractor.name} compare with others in the same "
            "features, and with no FID of Inception."
        )
    return said
