"""Evaluation records: metrics.json, sweep.json and scores.json, tables, and published results.

A record that is read may have other keys, and may lack all but the essential ones.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fromnoise.checkpoints import atomic_file, require_room
from fromnoise.classifier.label_scores import SCORES
from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import migrate_extractor, migrate_section
from fromnoise.config.schema import FORMULA, SamplingConfig
from fromnoise.data.text import plain, read_json
from fromnoise.evaluation.intervals import Interval, LabelScores, Number, Score

Metadata = dict[str, Any]
METRICS_FILE, SWEEP_FILE, SCORES_FILE = "metrics.json", "sweep.json", "scores.json"


class Stretch(BaseModel):
    """The mean L_{t−1} of a step in t = first..last, in bits per dimension; L_0 for t = 1."""

    first: Annotated[int, Field(ge=0)]
    last: Annotated[int, Field(ge=0)]
    per_step: Number
    low: Number = math.nan
    high: Number = math.nan


class Bits(BaseModel):
    """The bound on −log2 p(x_0) of images, in bits per dimension, with 95 % intervals.

    Intervals are over other images of the same distribution and other noise; the model is fixed.
    """

    unit: str = "bits per dimension, an upper bound"
    data: str = ""  # a description of the images
    num_images: int = 0
    levels: int = 0  # of the 256 grey levels, those that occur
    labels: bool = False  # whether the model had their labels
    evaluations: int = 0  # of the network per image; T: every t, without random t
    T: int = 0
    variance: str = ""  # of the model's steps
    seed: int = 0
    total: Score = Interval()  # = L_T + middle + L_0
    L_T: Score = Interval()
    middle: Score = Interval()  # Σ L_{t−1}, t = 2..T
    L_0: Score = Interval()
    curve: list[Stretch] = []
    picture: str = ""  # of the curve


class Row(BaseModel):
    """The cost of one sampling configuration, and its distance to the real images."""

    sampler: str
    steps: int
    guidance: float = 1.0
    timesteps: list[int] = []  # if --search-times found them
    seconds_per_image: Annotated[float, Field(gt=0)]
    fid: Score  # the Fréchet distance in the features of an extractor
    left_out: list[float] = []  # the same without each block of seeds; older files have none
    on_front: bool = False  # the Pareto front

    @property
    def cost(self) -> tuple[str, int, float]:
        """Return what the time depends on: the sampler, the steps and the guidance."""
        return self.sampler, self.steps, self.guidance

    def name(self, *, steps: bool = True) -> str:
        """Return `ddim 50`, with guidance `ddim 50, s = 2`, or `ddim 6, searched times`."""
        name = f"{self.sampler} {self.steps}" if steps else self.sampler
        name += ", searched times" if self.timesteps else ""
        return name if self.guidance == 1 else f"{name}, s = {self.guidance:g}"


class Found(BaseModel):
    """The times that a search found for a number of steps, at one guidance scale."""

    guidance: float
    steps: int
    timesteps: list[int]


class Search(BaseModel):
    """The search of `--search-times`, and what it found."""

    candidates: list[int]  # the times that it chose from
    trajectories: int
    found: list[Found] = []

    def at_found(self, config: SamplingConfig) -> SamplingConfig | None:
        """Return the settings with the times found for them; None if there are none."""
        for each in self.found:
            if (each.guidance, each.steps) == (config.guidance, config.steps):
                return config.model_copy(update={"timesteps": tuple(each.timesteps)})
        return None


class LabelResult(BaseModel):
    """The scores of one set of prompts at one guidance scale."""

    prompts: str
    guidance: float
    num_images: int
    seconds: float = 0.0  # of sampling
    scores: dict[str, Score]
    per_label: dict[str, LabelScores] = {}


class Stored(BaseModel):
    """The content of a record's file."""

    date: str = ""


class Metrics(Stored):
    """metrics.json: scores of generated images against real ones, or bits per dimension."""

    model_config = ConfigDict(extra="allow", validate_assignment=True)  # a metric's own keys
    complete: bool = True
    versions: Metadata = {}
    generated: Metadata = {}
    reference: Metadata = {}
    extractor: Metadata = {}
    scores: dict[str, Score] = {}
    missing: dict[str, str] = {}  # metric → why it is not defined
    marks: list[str] = []
    seconds: Metadata = {}
    copies: Metadata | None = None
    published: list[Metadata] | None = None  # results of papers with the same protocol
    bits: Bits | None = None

    def add(self, part: Mapping[str, Any]) -> None:
        """Add what a metric returns."""
        for key, value in part.items():
            setattr(self, key, plain(getattr(self, key, None) or {}) | value)

    def write(self, folder: Path) -> str:
        """Write metrics.json and metrics.md; return the latter."""
        content = {key: value for key, value in self if value is not None}
        write_record(folder / METRICS_FILE, content, text := table(self))
        return text


class Sweep(Stored):
    """sweep.json: distance against time for several sampling settings."""

    extractor: Annotated[
        str, BeforeValidator(lambda value: value.get("name") if isinstance(value, dict) else value)
    ] = ""
    count: int | None = None
    rows: list[Row]


class LabelRecord(Stored):
    """scores.json: agreement of generated images with the requested labels."""

    classifier: Metadata = {}
    results: list[LabelResult]


def read_record(file: Path, *, where: str) -> Any:
    """Return the content of a record's JSON file with the current keys, not validated.

    where: the file, for the message. Raises DataError if it is not JSON.
    """
    record = read_json(file, where=where)
    if not isinstance(record, dict):
        return record
    record = {"classifier" if key == "judge" else key: value for key, value in record.items()}
    if "ways" in record:
        precision = {"precision": record.pop("precision", "fp32")}  # older files have none
        sections = [migrate_section("sampling", section) for section in record.pop("ways")]
        record["sampling"] = [section | precision for section in sections]
    extractor, generated = record.get("extractor"), record.get("generated")
    if isinstance(extractor, dict) and "name" in extractor:
        record["extractor"] = migrate_extractor(extractor)
    if isinstance(generated, dict) and isinstance(sampling := generated.get("sampling"), dict):
        record["generated"] = generated | {"sampling": migrate_section("sampling", sampling)}
    return record


def now() -> str:
    """Return the date of a record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of libraries."""
    return {name: version(name) for name in libraries}


def write_record(file: Path, content: Mapping[str, Any], text: str) -> None:
    """Write a table as .md, and then the record as .json, each complete or not at all."""
    json_text = json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n"
    for path, written in ((file.with_suffix(".md"), text), (file, json_text)):
        with atomic_file(path) as writing:
            writing.write_text(written, encoding="utf-8")


def require_no_scores(file: Path) -> None:
    """Raise ConfigError if there is a record already, and as `checkpoints.require_room`."""
    if file.exists():
        raise ConfigError(
            f"{file.parent.absolute()} has scores already. Give another --out, or remove it."
        )
    require_room(file)


HEADINGS = {
    "fid": "Fréchet distance",
    "fid_infinity": "Fréchet distance, N → ∞",
    "kid": "KID",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
}
METRIC_HEADINGS = {  # of a metric that is not defined, for its scores
    "is": "Inception Score",
    "prc": "precision and recall",
    "copies": "copies of training images",
    "bits": "bits/dim",
}
LABEL_HEADINGS = dict(
    zip(SCORES, ("recall@k", "precision", "recall", "F1", "exact match", "extra"), strict=True)
)


def headings_in(extractor: str | None) -> dict[str, str]:
    """Return the headings for the features of an extractor: only Inception's give an FID."""
    of_inception = {"fid": "FID", "fid_infinity": "FID∞"} if extractor == "inception" else {}
    return HEADINGS | METRIC_HEADINGS | of_inception


def table(record: Metrics) -> str:
    """Return the scores with 95 % intervals in Markdown, and below them the settings."""
    headings = headings_in(record.extractor.get("name"))
    lines = ["| score | value | 95 % interval |", "|---|---|---|"]
    row = "{:.4g} | {:.4g} to {:.4g}".format
    for key, score in record.scores.items():
        lines.append(f"| {headings.get(key, key)} | {row(*score)} |")
    if record.bits:
        lines.append(f"| bits per dimension | {row(*record.bits.total)} |")
    for key, reason in record.missing.items():
        lines.append(f"| {headings.get(key, key)} | – | {reason} |")
    for r in record.published or ():
        lines.append(f"| FID of {r['system']}, {r['how']} | {r['fid']:g} | published |")
    if record.copies:
        lines += ["", record.copies["verdict"]]
    lines += ["", *(f"- {line}" for line in _settings(record))]
    return "\n".join(lines) + "\n"


def _settings(record: Metrics) -> list[str]:
    """Return the settings that the scores depend on, in a few lines."""
    generated, extractor = record.generated, record.extractor
    after = "after {step:,} steps, {weights} weights".format
    if not extractor:
        lines = [f"{generated['loaded from']} {after(**generated)}"]
    else:
        lines = [f"{generated['count']:,} generated images: {generated['what']}"]
        if "sampling" in generated:
            config = generated["sampling"]
            options = [f"{k} {v}" for k, v in config["sampler"].items() if k != "name"]
            sampler = ", ".join([config["sampler"]["name"], *options])
            times = config.get("timesteps")
            at = f" at t = {', '.join(map(str, times))}" if isinstance(times, list) else ""
            lines[0] += (
                f" {after(**generated)}, seeds {generated['seeds']}; {config['steps']} steps of "
                f"{sampler}{at}; labels: {generated['labels']}"
            )
            if config["guidance"] != 1:
                lines[0] += f", s = {config['guidance']:g} in {FORMULA}"
        lines.append(describe_reference(record.reference))
        weights = f", of weights {extractor['weights'][:12]}" if extractor["weights"] else ""
        lines.append(
            f"{extractor['width']:,} features of {extractor['name']}{weights}; images of uint8, "
            f"resized: {extractor['resize']}"
        )
    if bits := record.bits:
        parts = {"L_T": bits.L_T, "middle": bits.middle, "L_0": bits.L_0}
        listed = ", ".join(f"{name} {part.value:.3g}" for name, part in parts.items())
        lines.append(f"bits per dimension: a bound, of {bits.data}; {listed}")
    took = ", ".join(f"{k} {v:.1f}" for k, v in record.seconds.items() if v is not None)
    lines.append(f"{record.date}; seconds: {took}")
    if not record.complete:
        lines.append("incomplete: the evaluation was stopped, or is still running")
    return [*lines, *record.marks]


def describe_reference(real: Mapping[str, Any]) -> str:
    """Return the number of real images and their source. real: `Reference.info`."""
    count = (
        f"{real['count']:,} real images" if real["count"] else "real images, as mean and covariance"
    )
    return f"{count}: {real['what']}"


WEIGHTS = "6726825d"  # first digits of the SHA-256 of the published Inception weights
HEUN = "35 evaluations of Heun, the least of three draws"
KEYS = ("system", "source", "count", "conditional", "fid", "inception_score", "how")
RESULTS: list[Metadata] = [
    dict(zip(KEYS, row, strict=True))
    for row in (  # source: of the training images and of the reference; count: generated images
        ("Ho et al. 2020", "cifar10", 50_000, False, 3.17, 9.46, "1,000 ancestral steps"),
        ("Nichol and Dhariwal 2021, linear", "cifar10", 50_000, False, 2.90, None, "T = 4,000"),
        ("Karras et al. 2022", "cifar10", 50_000, False, 1.97, None, HEUN),
        ("Karras et al. 2022", "cifar10", 50_000, True, 1.79, None, HEUN),
    )
]


def published_beside(record: Metrics) -> list[Metadata]:
    """Return the results with the protocol of a record: data, split, count, features, EMA.

    Their samplers differ, and are named.
    """
    generated, real, extractor = record.generated, record.reference, record.extractor
    found = (extractor["name"], extractor["weights"][:8], generated.get("weights"))
    reference = (real["what"], real["count"], real.get("shape"))
    if found != ("inception", WEIGHTS, "ema") or "fid" not in record.scores:
        return []
    conditional = generated.get("labels", "").startswith("those")
    return [
        result
        for result in RESULTS
        if (f"{result['source']}, train", 50_000, [3, 32, 32]) == reference
        and (result["count"], result["conditional"]) == (generated["count"], conditional)
    ]
