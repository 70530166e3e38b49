"""The files in a run's evaluation/ folder, checked, so that the page can rely on their shape.

Keys that are not known here are passed over, and all but the essential ones may be missing.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fromnoise.data import DataError
from fromnoise.data.text import read_json

EVALUATION = "evaluation"


def _as_interval(value: Any) -> Any:
    """A number alone is a value whose interval is not known."""
    return value if isinstance(value, dict | Interval) else {"value": value}


def _finite(value: Any) -> Any:
    """NaN and ∞, which JSON does not have and Python writes, are no number to show."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(value: Any) -> Any:
    """Of a dict of facts the name."""
    return value.get("name", "") if isinstance(value, dict) else value


class Part(BaseModel):
    """A part of such a file."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


Number = Annotated[float | None, BeforeValidator(_finite)]
Facts = dict[str, Any]


class Interval(Part):
    """A number and its 95 % interval; None where it is 0/0 or not known."""

    value: Number = None
    low: Number = None
    high: Number = None


Score = Annotated[Interval, BeforeValidator(_as_interval)]


class Copies(Part):
    """The generated images that are nearest to training images."""

    model_config = ConfigDict(extra="allow")
    verdict: str = ""
    sheet: str | None = None

    @property
    def facts(self) -> Facts:
        """Whatever else is said of them in words or numbers, alone or a few under a name."""

        def plain(said: Any) -> bool:
            return isinstance(said, str | int | float)

        return {
            key: said
            for key, said in (self.model_extra or {}).items()
            if plain(said) or (isinstance(said, dict) and all(map(plain, said.values())))
        }


class Rate(Part):
    """Bits per dimension that each step from t = first to last costs."""

    first: Annotated[float, Field(ge=0)]
    last: Annotated[float, Field(ge=0)]
    per_step: Annotated[float, Field(ge=0)]


class Bits(Part):
    """Bits per dimension and what they consist of."""

    total: Score = Interval()
    middle: Score = Interval()
    L_T: Score = Interval()
    L_0: Score = Interval()
    curve: list[Rate] = []


class Metrics(Part):
    """metrics.json: distances between generated and real images."""

    date: str = ""
    versions: Facts = {}
    seconds: Facts = {}
    complete: bool = True
    generated: Facts = {}
    reference: Facts = {}
    extractor: Facts = {}
    scores: dict[str, Score] = {}
    marks: list[str] = []
    missing: dict[str, str] = {}
    published: list[Facts] = []  # of others, by the same protocol
    copies: Copies | None = None
    bits: Bits | None = None


class SweepRow(Part):
    """One way of sampling: what it costs and what it reaches."""

    sampler: str
    steps: int
    guidance: float | None = None
    seconds_per_image: Annotated[float, Field(gt=0)]
    fid: Score
    on_front: bool = False


class Sweep(Part):
    """sweep.json: distance against time for several ways of sampling."""

    date: str = ""
    extractor: Annotated[str, BeforeValidator(_name)] = ""
    count: int | None = None
    rows: list[SweepRow]


class LabelScore(Part):
    """How well one label is shown."""

    asked: int = 0
    precision: Score = Interval()
    recall: Score = Interval()
    f1: Score = Interval()


class LabelResult(Part):
    """The scores of one set of conditions at one guidance scale."""

    prompts: str
    guidance: float
    num_images: int
    scores: dict[str, Score]
    per_label: dict[str, LabelScore] = {}


class Classifier(Part):
    """Who scored the labels, and how good it is itself."""

    kind: str = ""
    num_held_out: int | None = None
    held_out: dict[str, float | None] = {}


class Labels(Part):
    """scores.json: do images show the labels that were asked for?"""

    date: str = ""
    sampling: Facts = {}
    classifier: Classifier = Classifier()
    results: list[LabelResult]


Kind = TypeVar("Kind", bound=Part)
SHAPES: dict[str, type[Part]] = {
    "metrics.json": Metrics,
    "scores.json": Labels,
    "sweep.json": Sweep,
}


class Evaluation(NamedTuple):
    """One such file, and the pictures beside it."""

    where: str  # in the run
    content: Part
    pictures: dict[str, Path]  # file name → PNG


def read_evaluations(run: Path) -> tuple[list[Evaluation], list[str]]:
    """All that was measured of a run, oldest first, and a line for each file that is damaged."""
    found, problems = [], []
    for file in sorted((run / EVALUATION).glob("*/*.json")):
        if (shape := SHAPES.get(file.name)) is None:
            continue
        where = file.relative_to(run).as_posix()
        try:
            content = shape.model_validate(read_json(file, where=where))
        except DataError as error:
            problems.append(str(error))
        except ValidationError as error:
            problems.append(f"{where} cannot be shown: {_first(error)}")
        else:
            pictures = {png.name: png for png in file.parent.glob("*.png")}
            found.append(Evaluation(file.parent.relative_to(run).as_posix(), content, pictures))
    return sorted(found, key=lambda one: getattr(one.content, "date", "")), problems


def of_kind(kind: type[Kind], found: Sequence[Evaluation]) -> list[tuple[Evaluation, Kind]]:
    """Those that hold this kind of content."""
    return [(one, one.content) for one in found if isinstance(one.content, kind)]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "it"
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
