"""What a run folder holds, as plain data. What is damaged becomes a sentence, never an error."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fromnoise.config.errors import ConfigError
from fromnoise.config.overrides import dotted
from fromnoise.config.recipe import load_recipe
from fromnoise.training.previews import FOLDER as PREVIEWS
from fromnoise.training.previews import read_preview

RECIPE, LOG = "recipe.yaml", "log.jsonl"
MOST_PREVIEWS, MOST_IMAGES, FEWEST = 16, 24, 4
PREVIEW_BYTES = 2 * 2**20  # of pixels, of all previews of a run together
LINES_NAMED = 5
FID_KEYS = ("value", "low", "high")
LARGEST = 1e300  # number that counts as one


class Preview(NamedTuple):
    """What the averaged weights made of the same noise at one moment of the training."""

    step: int
    images: np.ndarray  # uint8 (N, C, H, W)


class LoggedScore(NamedTuple):
    """A Fréchet distance of the training, with its 95 % interval."""

    step: int
    value: float
    low: float
    high: float
    extractor: str
    num_images: int


@dataclass(kw_only=True)
class RunFolder:
    """A run's recipe, log and previews."""

    name: str  # among the runs of the page
    folder: Path
    recipe: dict[str, Any]  # dotted key → value
    rows: list[dict[str, Any]]  # of the log, by step
    previews: list[Preview]
    problems: list[str] = field(default_factory=list)  # what could not be read

    def series(self, key: str, *, positive: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values (n,) of one column of the log, where it is a finite number."""
        pairs = [(r["step"], r[key]) for r in self.rows if _number(r.get(key))]
        steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        usable = values > 0 if positive else slice(None)
        return steps[usable], values[usable]

    def scores(self) -> list["LoggedScore"]:
        """The distances that `evaluation.every` logged."""
        found = []
        for row in self.rows:
            said = row.get("evaluation")
            said = said if isinstance(said, dict) else {}
            fid = said.get("fid")
            if not isinstance(fid, dict) or not all(map(_number, map(fid.get, FID_KEYS))):
                continue
            value, low, high = (float(fid[key]) for key in FID_KEYS)
            kind, count = str(said.get("extractor", "")), int(said.get("num_images", 0))
            found.append(LoggedScore(row["step"], value, low, high, kind, count))
        return found

    def last(self, key: str) -> float | None:
        """The last value of one column of the log."""
        _, values = self.series(key)
        return float(values[-1]) if len(values) else None

    @property
    def skipped(self) -> int:
        """Steps whose loss or gradient was not finite."""
        return sum("skipped" in row for row in self.rows)


def read_run(folder: Path, name: str) -> RunFolder:
    """Everything that is read from a run folder without its model.

    Raises ConfigError where `folder` is no run.
    """
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"{folder.absolute()} is no run: it has no {RECIPE}; give a folder that `fromnoise "
            "train` wrote"
        )
    problems: list[str] = []
    return RunFolder(
        name=name,
        folder=folder,
        recipe=_recipe(folder / RECIPE, problems),
        rows=_rows(folder / LOG, problems),
        previews=_previews(folder / PREVIEWS, problems),
        problems=problems,
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as it takes to tell them apart.

    Raises ConfigError where a folder is given twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ConfigError("a run is given twice; give each once")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("unequal paths that are equal")


def all_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys of all recipes, those of a section together."""
    sections: dict[str, dict[str, None]] = {}
    for key in (key for recipe in recipes for key in recipe):
        sections.setdefault(key.rpartition(".")[0], {})[key] = None
    return [key for section in sections.values() for key in section]


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of the dotted keys that are not the same in all recipes."""
    missing = object()

    def differs(key: str) -> bool:
        first, *others = (recipe.get(key, missing) for recipe in recipes)
        return any(other != first for other in others)

    return [key for key in all_keys(recipes) if differs(key)]


def _number(value: Any) -> bool:
    number = isinstance(value, int | float) and type(value) is not bool
    return number and abs(value) < LARGEST


def _recipe(file: Path, problems: list[str]) -> dict[str, Any]:
    """Every key, defaults included; a recipe that this version does not accept, as it stands."""
    try:
        return dotted(load_recipe(file).model_dump(mode="json"))
    except (ConfigError, OSError) as error:
        problems.append(f"{RECIPE} is shown as it stands: {error}")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return dotted(tree) if isinstance(tree, dict) else {}


def _rows(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        problems.append(f"there is no {LOG}, so there are no curves")
        return []
    rows, damaged = [], []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and _number(row.get("step")) and row["step"] >= 0:
            rows.append(row)
        elif line.strip():
            damaged.append(number)
    if damaged:
        few = ", ".join(map(str, damaged[:LINES_NAMED])) + ", …" * (len(damaged) > LINES_NAMED)
        problems.append(f"{LOG}: {len(damaged)} of {len(lines)} lines cannot be read: {few}")
    return sorted(rows, key=lambda row: row["step"])


def _previews(folder: Path, problems: list[str]) -> list[Preview]:
    """The moments evenly spread, and the first images: as many as a page can carry."""
    files = sorted((f for f in folder.glob("*.npz") if f.stem.isdecimal()), key=lambda f: f.stem)
    found = []
    for file in files:
        try:
            found.append(Preview(int(file.stem), read_preview(file)))
        except ConfigError as error:
            problems.append(str(error))
    if not found:
        return []
    count, steps = len(found[0].images), len(found)
    count, steps = min(count, MOST_IMAGES), min(steps, MOST_PREVIEWS)
    size = found[0].images[0].size
    while count * steps * size > PREVIEW_BYTES and max(count, steps) > FEWEST:
        count, steps = (count // 2, steps) if count >= steps else (count, steps // 2)
    chosen = np.linspace(0, len(found) - 1, steps).round().astype(int)
    return [Preview(found[i].step, found[i].images[:count]) for i in chosen]
