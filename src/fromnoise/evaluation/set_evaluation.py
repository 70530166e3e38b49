"""How good are generated images as a set? Every number, with all that it depends on.

    set-…/metrics.json    scores with their intervals, and the circumstances
          metrics.md      the same as a table

Both are written anew after every metric, so that what is done is not lost with what comes next.
"""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.config import ConfigError, unknown
from fromnoise.evaluation.extractors import (
    PRETRAINED,
    Extractor,
    ExtractorError,
    Progress,
    in_parts,
    nothing,
)
from fromnoise.evaluation.generated import Generated
from fromnoise.evaluation.label_scores import Interval
from fromnoise.evaluation.moments import moments_of
from fromnoise.evaluation.published import published_beside
from fromnoise.evaluation.reference import Reference
from fromnoise.evaluation.set_metrics import (
    BLOCKS,
    frechet_scores,
    inception_score,
    kernel_distance,
    precision_and_recall,
)
from fromnoise.evaluation.set_table import Record, table

METRICS_FILE, TABLE_FILE = "metrics.json", "metrics.md"
LIBRARIES = ("fromnoise", "torch", "torchvision", "torch-fidelity", "numpy")


class Sets(NamedTuple):
    """Generated images, in the order of their seeds, and real ones, as features."""

    features: np.ndarray  # float32 (N, D)
    logits: np.ndarray | None  # float32 (N, K)
    reference: Reference

    def real(self) -> np.ndarray:
        """The features of the real images. Raises NotDefined where only their Gaussian is known."""
        if self.reference.features is None:
            raise NotDefined("the reference is a mean and a covariance, and this needs images")
        return self.reference.features


class NotDefined(ValueError):
    """Why a score cannot be had of these sets."""


def fid(sets: Sets) -> dict[str, Interval]:
    """The Fréchet distance, which is FID in the features of Inception, and FID∞."""
    blocks = [moments_of(block) for block in np.array_split(sets.features, BLOCKS)]
    values = frechet_scores(blocks, sets.reference.mean, sets.reference.covariance)
    return dict(zip(("fid", "fid_infinity"), values, strict=True))


def kid(sets: Sets) -> dict[str, Interval]:
    """The kernel distance."""
    return {"kid": kernel_distance(sets.features, sets.real())}


def isc(sets: Sets) -> dict[str, Interval]:
    """The Inception Score, of whatever classifier the extractor is."""
    if sets.logits is None:
        raise NotDefined("it needs an extractor that tells classes apart: inception, or a judge")
    return {"inception_score": inception_score(sets.logits)}


def prc(sets: Sets) -> dict[str, Interval]:
    """Precision and recall."""
    values = precision_and_recall(sets.features, sets.real())
    return dict(zip(("precision", "recall"), values, strict=True))


METRICS: dict[str, Callable[[Sets], dict[str, Interval]]] = {
    "fid": fid,
    "kid": kid,
    "is": isc,
    "prc": prc,
}


def evaluate_set(
    generated: Generated,
    reference: Reference,
    extractor: Extractor,
    folder: Path,
    *,
    metrics: Sequence[str] = tuple(METRICS),
    allow_small: bool = False,
    progress: Progress = nothing,
) -> Record:
    """Score generated images against real ones, and return what metrics.json holds then.

    A metric that is not defined for these sets is named there with the reason. progress is called
    while features are extracted.
    Raises ConfigError for an unknown metric and where `folder` has scores already, and
    ExtractorError for fewer images than features, unless `allow_small`.
    """
    check_before(len(generated.images), metrics, extractor, folder, allow_small=allow_small)
    record: Record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": False,
        "versions": {name: version(name) for name in LIBRARIES},
        "generated": generated.said,
        "reference": reference.said,
        "extractor": {key: v for key, v in extractor._asdict().items() if key != "extract"},
        "scores": {},
        "missing": {},
        "marks": marks(len(generated.images), reference, extractor),
        "seconds": {"drawing": generated.seconds},
    }
    started = time.perf_counter()
    parts = [part for _, part in in_parts(extractor, generated.images, progress)]
    logits = [part.logits for part in parts if part.logits is not None]
    sets = Sets(
        np.concatenate([part.features for part in parts]),
        np.concatenate(logits) if logits else None,
        reference,
    )
    record["seconds"]["features"] = time.perf_counter() - started
    for name in metrics:
        started = time.perf_counter()
        try:
            scores = METRICS[name](sets)
        except NotDefined as reason:
            record["missing"][name] = str(reason)
        else:
            record["scores"] |= {key: score._asdict() for key, score in scores.items()}
            record["seconds"][name] = time.perf_counter() - started
        write_record(folder, record)
    record |= {"complete": True, "published": published_beside(record)}
    write_record(folder, record)
    return record


def check_installed() -> None:
    """Raise ExtractorError where the libraries of the extra `eval` are missing."""
    if missing := [name for name in ("torch_fidelity", "scipy") if find_spec(name) is None]:
        raise ExtractorError(
            f"{' and '.join(missing)} is not installed; `pip install 'fromnoise[eval]'` brings it"
        )


def check_before(
    num: int,
    metrics: Sequence[str],
    extractor: Extractor,
    folder: Path,
    *,
    allow_small: bool = False,
) -> None:
    """Raise, before an hour is spent on drawing, what `evaluate_set` would raise after it."""
    if (folder / METRICS_FILE).exists():
        raise ConfigError(
            f"{folder.absolute()} has the scores of an earlier evaluation; give another --out, or "
            "remove it"
        )
    for name in metrics:
        if name not in METRICS:
            raise ConfigError(f"--metrics {unknown(name, METRICS)}")
    if num < 2 * BLOCKS:
        raise ExtractorError(
            f"{num} images are too few to say anything about a set; give at least {2 * BLOCKS}"
        )
    if num < extractor.width and not allow_small:
        raise ExtractorError(
            f"{num:,} images are fewer than the {extractor.width:,} features of {extractor.name}, "
            "and the Fréchet distance of so few is far too large; give more (10,000 or 50,000 are "
            "usual), or --allow-small to have it all the same, marked"
        )


def marks(num: int, reference: Reference, extractor: Extractor) -> list[str]:
    """What a reader of the numbers must know, in sentences."""
    said = []
    if num < extractor.width:
        said.append(
            f"Small: {num:,} images in {extractor.width:,} dimensions. FID of so few is far too "
            "large; compare it with nothing but the same number of images."
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


def write_record(folder: Path, record: Record) -> None:
    """Write metrics.json and metrics.md, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    for name, content in ((METRICS_FILE, text), (TABLE_FILE, table(record))):
        writing = folder / f".writing-{name}"
        writing.write_text(content, encoding="utf-8")
        writing.replace(folder / name)
