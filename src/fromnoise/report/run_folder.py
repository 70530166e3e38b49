"""Read a run folder as plain data. Damaged files become messages, not exceptions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import migrate_extractor
from fromnoise.config.overrides import dotted
from fromnoise.config.recipe import load_recipe
from fromnoise.curves import is_number, series
from fromnoise.training.previews import FOLDER as PREVIEWS
from fromnoise.training.previews import read_preview

RECIPE, LOG = "recipe.yaml", "log.jsonl"
MAX_PREVIEWS, MAX_IMAGES, MIN_COUNT = 16, 24, 4
PREVIEW_BYTES = 2 * 2**20  # pixels of all previews of a run
MAX_LINES_NAMED = 5


class Preview(NamedTuple):
    """Samples of the EMA weights from fixed noise, at one training step."""

    step: int
    images: np.ndarray  # uint8 (N, C, H, W)


class LoggedScore(NamedTuple):
    """A Fréchet distance during training with its 95 % interval."""

    step: int
    value: float
    low: float
    high: float
    extractor: str
    num_images: int


@dataclass(kw_only=True)
class RunFolder:
    """A run's recipe, log and previews."""

    name: str  # unique on the page
    folder: Path
    recipe: dict[str, Any]  # dotted key → value
    rows: list[dict[str, Any]]  # of the log, sorted by step
    previews: list[Preview]
    problems: list[str] = field(default_factory=list)  # messages about damaged files

    def scores(self) -> list[LoggedScore]:
        """Return the distances that `evaluation.every` logged."""
        scores = []
        for row in self.rows:
            match row.get("evaluation"):
                case {"fid": {"value": value, "low": low, "high": high}, **more} if all(
                    map(is_number, (value, low, high))
                ):
                    extractor = migrate_extractor({"name": str(more.get("extractor"))})["name"]
                    count = int(more.get("num_images", 0))
                    scores.append(LoggedScore(row["step"], value, low, high, extractor, count))
        return scores

    def last(self, key: str) -> float | None:
        """Return the last value of one column of the log."""
        _, values = series(self.rows, key)
        return float(values[-1]) if len(values) else None

    @property
    def skipped(self) -> int:
        """Return how many steps were skipped because the loss or gradient was not finite."""
        return sum("skipped" in row for row in self.rows)


def read_run(folder: Path, name: str) -> RunFolder:
    """Read the recipe, log and previews of a run. Raises ConfigError if `folder` is not a run."""
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"{folder.absolute()} is not a run: it has no {RECIPE}. Give a folder that `fromnoise "
            "train` wrote."
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


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or more parts until the names are unique.

    Raises ConfigError if a folder is given twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ConfigError("a run is given twice. Give each run once.")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have equal parts")


def all_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys of all recipes, grouped by section."""
    sections: dict[str, dict[str, None]] = {}
    for key in (key for recipe in recipes for key in recipe):
        sections.setdefault(key.rpartition(".")[0], {})[key] = None
    return [key for section in sections.values() for key in section]


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys whose values differ between the recipes."""
    missing = object()
    first, *others = recipes
    return [
        key
        for key in all_keys(recipes)
        if any(other.get(key, missing) != first.get(key, missing) for other in others)
    ]


def _recipe(file: Path, problems: list[str]) -> dict[str, Any]:
    """Return every key with its default, or only the written keys of an invalid recipe."""
    try:
        return dotted(load_recipe(file).model_dump(mode="json"))
    except (ConfigError, OSError) as error:
        problems.append(f"{RECIPE} is shown as written: {error}")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return dotted(tree) if isinstance(tree, dict) else {}


def _rows(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        problems.append(f"{LOG} is missing, so there are no curves")
        return []
    rows, damaged = [], []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and is_number(row.get("step")) and row["step"] >= 0:
            rows.append(row)
        elif line.strip():
            damaged.append(number)
    if damaged:
        more = ", …" * (len(damaged) > MAX_LINES_NAMED)
        first = ", ".join(map(str, damaged[:MAX_LINES_NAMED])) + more
        problems.append(f"{LOG}: {len(damaged)} of {len(lines)} lines cannot be read: {first}")
    return sorted(rows, key=lambda row: row["step"])


def _previews(folder: Path, problems: list[str]) -> list[Preview]:
    """Return evenly spread previews with their first images, within PREVIEW_BYTES."""
    previews = []
    for file in sorted(file for file in folder.glob("*.npz") if file.stem.isdecimal()):
        try:
            previews.append(Preview(int(file.stem), read_preview(file)))
        except ConfigError as error:
            problems.append(str(error))
    if not previews:
        return []
    size = previews[0].images[0].size
    count, steps = min(len(previews[0].images), MAX_IMAGES), min(len(previews), MAX_PREVIEWS)
    while count * steps * size > PREVIEW_BYTES and max(count, steps) > MIN_COUNT:
        count, steps = (count // 2, steps) if count >= steps else (count, steps // 2)
    chosen = np.linspace(0, len(previews) - 1, steps).round().astype(int)
    return [Preview(previews[i].step, previews[i].images[:count]) for i in chosen]
