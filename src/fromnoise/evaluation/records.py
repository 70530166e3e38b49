"""Evaluation records: metrics.json, its table, and published results beside them."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fromnoise.checkpoints import atomic_file
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import FORMULA

Record = dict[str, Any]  # what metrics.json holds
METRICS_FILE, TABLE_FILE = "metrics.json", "metrics.md"
LIBRARIES = ("fromnoise", "torch", "torchvision", "torch-fidelity", "numpy")


class NotDefined(ValueError):
    """A metric that is not defined, with the reason."""


def new_record(libraries: Sequence[str] = LIBRARIES) -> Record:
    """Return a record before anything was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": False,
        "versions": {name: version(name) for name in libraries},
        "generated": {},
        "reference": {},
        "extractor": {},
        "scores": {},
        "missing": {},
        "marks": [],
        "seconds": {},
    }


def write_record(folder: Path, record: Record) -> None:
    """Write metrics.json and metrics.md, each complete or not at all."""
    write_files(folder, {TABLE_FILE: table(record), METRICS_FILE: to_json(record)})


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files in order, each complete or not at all."""
    for name, text in files.items():
        with atomic_file(folder / name) as writing:
            writing.write_text(text, encoding="utf-8")


def to_json(content: Mapping[str, Any]) -> str:
    """Return the text of a record's JSON file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """Return named tuples as dicts, and None for NaN, at any depth."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def require_no_scores(folder: Path) -> None:
    """Raise ConfigError if `folder` has scores already."""
    if (folder / METRICS_FILE).exists():
        raise ConfigError(
            f"{folder.absolute()} has scores already. Give another --out, or remove it."
        )


HEADINGS = {
    "fid": "Fréchet distance",
    "fid_infinity": "Fréchet distance, N → ∞",
    "kid": "KID",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    # metrics, whose name stands for their scores if they are not defined
    "is": "Inception Score",
    "prc": "precision and recall",
    "copies": "copies of training images",
}
INCEPTION_HEADINGS = {"fid": "FID", "fid_infinity": "FID∞"}  # of Inception's features alone


def table(record: Record) -> str:
    """Return the scores with 95 % intervals in Markdown, and below them the settings."""
    headings = HEADINGS
    if record["extractor"].get("name") == "inception":
        headings = HEADINGS | INCEPTION_HEADINGS
    lines = ["| score | value | 95 % interval |", "|---|---|---|"]
    row = "{value:.4g} | {low:.4g} to {high:.4g}".format
    for key, score in record["scores"].items():
        lines.append(f"| {headings.get(key, key)} | {row(**score)} |")
    if "bits" in record:
        lines.append(f"| bits per dimension | {row(**record['bits']['total'])} |")
    lines += [
        f"| {headings.get(key, key)} | – | {reason} |" for key, reason in record["missing"].items()
    ]
    lines += [
        f"| FID of {r['system']}, {r['how']} | {r['fid']:g} | published |"
        for r in record.get("published", [])
    ]
    if "copies" in record:
        lines += ["", record["copies"]["verdict"]]
    lines += ["", *(f"- {line}" for line in settings_of(record))]
    return "\n".join(lines) + "\n"


def settings_of(record: Record) -> list[str]:
    """Return the settings that the scores depend on, in a few lines."""
    generated = record["generated"]
    lines = (
        _describe_set(record)
        if record["extractor"]
        else [f"{generated['loaded from']} {_describe_weights(generated)}"]
    )
    if "bits" in record:
        parts = ", ".join(f"{k} {record['bits'][k]['value']:.3g}" for k in ("L_T", "middle", "L_0"))
        lines.append(f"bits per dimension: a bound, of {record['bits']['data']}; {parts}")
    took = ", ".join(f"{k} {v:.1f}" for k, v in record["seconds"].items() if v is not None)
    lines.append(f"{record['date']}; seconds: {took}")
    if not record["complete"]:
        lines.append("incomplete: the evaluation was stopped, or is still running")
    return [*lines, *record["marks"]]


def _describe_weights(generated: Mapping[str, Any]) -> str:
    return f"after {generated['step']:,} steps, {generated['weights']} weights"


def _describe_set(record: Record) -> list[str]:
    generated, real, extractor = (record[k] for k in ("generated", "reference", "extractor"))
    lines = [f"{generated['count']:,} generated images: {generated['what']}"]
    if "sampling" in generated:
        config = generated["sampling"]
        options = [f"{k} {v}" for k, v in config["sampler"].items() if k != "name"]
        sampler = ", ".join([config["sampler"]["name"], *options])
        lines[0] += (
            f" {_describe_weights(generated)}, seeds {generated['seeds']}; {config['steps']} steps "
            f"of {sampler}; labels: {generated['labels']}"
        )
        if config["guidance"] != 1:
            lines[0] += f", s = {config['guidance']:g} in {FORMULA}"
    lines.append(describe_reference(real))
    weights = f", of weights {extractor['weights'][:12]}" if extractor["weights"] else ""
    lines.append(
        f"{extractor['width']:,} features of {extractor['name']}{weights}; images of uint8, "
        f"resized: {extractor['resize']}"
    )
    return lines


def describe_reference(real: Mapping[str, Any]) -> str:
    """Return the number of real images and their source. real: `Reference.info`."""
    count = (
        f"{real['count']:,} real images" if real["count"] else "real images, as mean and covariance"
    )
    return f"{count}: {real['what']}"


WEIGHTS = "6726825d"  # first digits of the SHA-256 of the published Inception weights


class Published(NamedTuple):
    """One row of a paper's table."""

    system: str
    source: str  # of the training images and of the reference
    count: int  # generated images
    conditional: bool
    fid: float
    inception_score: float | None
    how: str  # sampler


HEUN = "35 evaluations of Heun, the least of three draws"
RESULTS = (
    Published("Ho et al. 2020", "cifar10", 50_000, False, 3.17, 9.46, "1,000 ancestral steps"),
    Published(
        "Nichol and Dhariwal 2021, linear", "cifar10", 50_000, False, 2.90, None, "T = 4,000"
    ),
    Published("Karras et al. 2022", "cifar10", 50_000, False, 1.97, None, HEUN),
    Published("Karras et al. 2022", "cifar10", 50_000, True, 1.79, None, HEUN),
)


def published_beside(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results with the protocol of a record: data, split, count, features, EMA.

    Their samplers differ, and are named.
    """
    generated, reference, extractor = (record[k] for k in ("generated", "reference", "extractor"))
    if extractor["name"] != "inception" or not extractor["weights"].startswith(WEIGHTS):
        return []
    if generated.get("weights") != "ema" or "fid" not in record["scores"]:
        return []
    return [
        result._asdict()
        for result in RESULTS
        if (f"{result.source}, train", 50_000, [3, 32, 32])
        == (reference["what"], reference["count"], reference.get("shape"))
        and result.count == generated["count"]
        and result.conditional == generated.get("labels", "").startswith("those")
    ]
