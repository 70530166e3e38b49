"""metrics.json and its table: how they begin, and how they come to the disk."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fromnoise.config.errors import ConfigError

Record = dict[str, Any]  # what metrics.json holds
METRICS_FILE, TABLE_FILE = "metrics.json", "metrics.md"
LIBRARIES = ("fromnoise", "torch", "torchvision", "torch-fidelity", "numpy")


class NotDefined(ValueError):
    """Why a score cannot be had."""


def new_record(libraries: Sequence[str] = LIBRARIES) -> Record:
    """What every record has, before anything was measured."""
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
    """Write metrics.json and metrics.md, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    for name, content in ((METRICS_FILE, text), (TABLE_FILE, table(record))):
        writing = folder / f".writing-{name}"
        writing.write_text(content, encoding="utf-8")
        writing.replace(folder / name)


def require_no_scores(folder: Path) -> None:
    """Raise ConfigError where `folder` has scores already."""
    if (folder / METRICS_FILE).exists():
        raise ConfigError(
            f"{folder.absolute()} has the scores of an earlier evaluation; give another --out, or "
            "remove it"
        )


HEADINGS = {
    "fid": "Fréchet distance",
    "fid_infinity": "Fréchet distance, N → ∞",
    "kid": "KID",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
}
OF_METRICS = {  # what is missing may be a metric, as --metrics has it
    "is": "Inception Score",
    "prc": "precision and recall",
    "copies": "copies of training images",
    "bits": "bits per dimension",
}
OF_INCEPTION = {"fid": "FID", "fid_infinity": "FID∞"}  # no other features are called so


def table(record: Record) -> str:
    """The scores with their 95 % intervals in Markdown, and below them their circumstances."""
    headings = HEADINGS
    if record["extractor"].get("name") == "inception":
        headings = HEADINGS | OF_INCEPTION
    lines = ["| score | value | 95 % interval |", "|---|---|---|"]
    for key, score in record["scores"].items():
        value, low, high = (f"{score[part]:.4g}" for part in ("value", "low", "high"))
        lines.append(f"| {headings[key]} | {value} | {low} to {high} |")
    if "bits" in record:
        value, low, high = (
            f"{record['bits']['total'][part]:.4g}" for part in ("value", "low", "high")
        )
        lines.append(f"| bits per dimension | {value} | {low} to {high} |")
    headings = headings | OF_METRICS
    lines += [f"| {headings[key]} | – | {reason} |" for key, reason in record["missing"].items()]
    lines += [
        f"| FID of {r['system']}, {r['how']} | {r['fid']:g} | published |"
        for r in published(record)
    ]
    if "copies" in record:
        lines += ["", record["copies"]["verdict"]]
    lines += ["", *(f"- {line}" for line in circumstances(record))]
    return "\n".join(lines) + "\n"


def circumstances(record: Record) -> list[str]:
    """What the scores depend on, in a few lines."""
    lines = _of_a_set(record) if record["extractor"] else [_of_a_model(record["generated"])]
    if "bits" in record:
        parts = ", ".join(f"{k} {record['bits'][k]['value']:.3g}" for k in ("L_T", "middle", "L_0"))
        lines.append(f"bits per dimension: a bound, of {record['bits']['data']}; {parts}")
    took = ", ".join(f"{k} {v:.1f}" for k, v in record["seconds"].items() if v is not None)
    lines.append(f"{record['date']}; seconds: {took}")
    if not record["complete"]:
        lines.append("not complete: it was stopped, or goes on")
    return [*lines, *record["marks"]]


def _of_a_model(said: dict[str, Any]) -> str:
    return f"{said['loaded from']} after {said['step']:,} steps, {said['weights']} weights"


def _of_a_set(record: Record) -> list[str]:
    generated, real, extractor = (record[k] for k in ("generated", "reference", "extractor"))
    lines = [f"{generated['count']:,} generated images: {generated['what']}"]
    if "sampling" in generated:
        plan = generated["sampling"]
        options = [f"{k} {v}" for k, v in plan["sampler"].items() if k != "name"]
        lines[0] += (
            f" after {generated['step']:,} steps, {generated['weights']} weights, seeds "
            f"{generated['seeds']}; {plan['steps']} steps of "
            f"{', '.join([plan['sampler']['name'], *options])}; labels: {generated['labels']}"
        )
        if plan["guidance"] != 1:
            lines[0] += f", s = {plan['guidance']:g} in ε = ε_∅ + s·(ε_c − ε_∅)"
    lines.append(counted(real))
    weights = f", of weights {extractor['weights'][:12]}" if extractor["weights"] else ""
    lines.append(
        f"{extractor['width']:,} features of {extractor['name']}{weights}; images of uint8, "
        f"resized: {extractor['resize']}"
    )
    return lines


def counted(real: dict[str, Any]) -> str:
    """How many real images there are, and which. real: what `Reference.said` is."""
    count = (
        f"{real['count']:,} real images" if real["count"] else "real images, as mean and covariance"
    )
    return f"{count}: {real['what']}"


def published(record: Record) -> list[dict[str, Any]]:
    """Results of others by the same protocol."""
    return record.get("published", [])


WEIGHTS = "6726825d"  # how the SHA-256 of the published Inception weights begins


class Published(NamedTuple):
    """One row of a paper's table."""

    system: str
    source: str  # of the training images, which are the reference too
    count: int  # generated images
    conditional: bool
    fid: float
    inception_score: float | None
    how: str  # it was sampled


HEUN = "35 evaluations of Heun, the least of three draws"
RESULTS = (
    Published("Ho et al. 2020", "cifar10", 50_000, False, 3.17, 9.46, "1,000 ancestral steps"),
    Published(
        "Nichol and Dhariwal 2021, linear", "cifar10", 50_000, False, 2.90, None, "T = 4,000"
    ),
    Published(
        "Karras et al. 2022",
        "cifar10",
        50_000,
        False,
        1.97,
        None,
        HEUN,
    ),
    Published(
        "Karras et al. 2022",
        "cifar10",
        50_000,
        True,
        1.79,
        None,
        HEUN,
    ),
)


def published_beside(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The results whose protocol is that of `metrics.json`: data, split, count, features, EMA.

    How they were sampled differs and is said with each.
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
