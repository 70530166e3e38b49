"""Read and validate the evaluation records in a run's evaluation/ folder.

Unknown keys are ignored. All keys but the essential ones may be missing.
"""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fromnoise.config.migration import migrate_extractor, migrate_section
from fromnoise.data import DataError
from fromnoise.data.text import read_json

EVALUATION = "evaluation"


def _finite(value: Any) -> Any:
    """Return None for NaN and ∞, which Python writes and JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(value: Any) -> Any:
    """Return the name in a dict of metadata."""
    return value.get("name", "") if isinstance(value, dict) else value


class Part(BaseModel):
    """A part of a record."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


Number = Annotated[float | None, BeforeValidator(_finite)]
Metadata = dict[str, Any]


class Interval(Part):
    """A number and its 95 % interval. None means unknown or 0/0."""

    value: Number = None
    low: Number = None
    high: Number = None

    @model_validator(mode="before")
    @classmethod
    def _of_a_number(cls, value: Any) -> Any:
        """Return a bare number as a value without an interval."""
        return value if isinstance(value, dict | Interval) else {"value": value}


class Copies(Part):
    """The search for copies of training images among generated ones."""

    model_config = ConfigDict(extra="allow")
    verdict: str = ""
    sheet: str | None = None

    @property
    def facts(self) -> Metadata:
        """Return the other keys whose values are text or numbers, or flat dicts of them."""

        plain = str | int | float
        return {
            key: value
            for key, value in (self.model_extra or {}).items()
            if isinstance(value, plain)
            or (isinstance(value, dict) and all(isinstance(v, plain) for v in value.values()))
        }


class BitsPerStep(Part):
    """Bits per dimension of each step from t = first to last, with a 95 % interval."""

    first: Annotated[float, Field(ge=0)]
    last: Annotated[float, Field(ge=0)]
    per_step: Annotated[float, Field(ge=0)]
    low: Number = None
    high: Number = None


class Bits(Part):
    """Bits per dimension and their terms."""

    total: Interval = Interval()
    middle: Interval = Interval()
    L_T: Interval = Interval()
    L_0: Interval = Interval()
    curve: list[BitsPerStep] = []


class Record(Part):
    """The content of an evaluation record."""

    date: str = ""


class Metrics(Record):
    """metrics.json: scores of generated images against real ones, or bits per dimension."""

    versions: Metadata = {}
    seconds: Metadata = {}
    complete: bool = True
    generated: Metadata = {}
    reference: Metadata = {}
    extractor: Metadata = {}
    scores: dict[str, Interval] = {}
    marks: list[str] = []
    missing: dict[str, str] = {}
    published: list[Metadata] = []  # results of papers with the same protocol
    copies: Copies | None = None
    bits: Bits | None = None


class SweepRow(Part):
    """The cost and the distance of one sampling setting."""

    sampler: str
    steps: int
    guidance: float | None = None
    seconds_per_image: Annotated[float, Field(gt=0)]
    fid: Interval
    on_front: bool = False


class Sweep(Record):
    """sweep.json: distance against time for several sampling settings."""

    extractor: Annotated[str, BeforeValidator(_name)] = ""
    count: int | None = None
    rows: list[SweepRow]


class LabelScore(Part):
    """The scores of one label."""

    asked: int = 0
    precision: Interval = Interval()
    recall: Interval = Interval()
    f1: Interval = Interval()


class LabelResult(Part):
    """The scores of one set of conditions at one guidance scale."""

    prompts: str
    guidance: float
    num_images: int
    scores: dict[str, Interval]
    per_label: dict[str, LabelScore] = {}


class Classifier(Part):
    """The classifier and its own scores on real images."""

    kind: str = ""
    num_held_out: int | None = None
    held_out: dict[str, float | None] = {}


class LabelScores(Record):
    """scores.json: agreement of generated images with the requested labels."""

    classifier: Classifier = Classifier()
    results: list[LabelResult]


KINDS: dict[str, type[Record]] = {
    "metrics.json": Metrics,
    "scores.json": LabelScores,
    "sweep.json": Sweep,
}


def read_records(run: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """Return the folders and records of a run's evaluations, oldest first, and what is damaged."""
    records, problems = [], []
    for file in sorted((run / EVALUATION).glob("*/*.json")):
        where = file.relative_to(run).as_posix()
        try:
            if kind := KINDS.get(file.name):
                content = kind.model_validate(_migrate(read_json(file, where=where)))
                records.append((file.parent, content))
        except DataError as error:
            problems.append(str(error))
        except ValidationError as error:
            problems.append(f"{where} cannot be shown: {_first_error(error)}")
    return sorted(records, key=lambda record: record[1].date), problems


def _migrate(record: Any) -> Any:
    """Return a record under the current names. Older ones say `judge` and `spacing`."""
    if not isinstance(record, dict):
        return record
    record = {"classifier" if key == "judge" else key: value for key, value in record.items()}
    extractor, generated = record.get("extractor"), record.get("generated")
    if isinstance(extractor, dict) and "name" in extractor:
        record["extractor"] = migrate_extractor(extractor)
    sampling = generated.get("sampling") if isinstance(generated, dict) else None
    if isinstance(sampling, dict):
        record["generated"] = generated | {"sampling": migrate_section("sampling", sampling)}
    return record


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "it"
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
