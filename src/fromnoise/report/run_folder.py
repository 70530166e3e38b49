"""Read a run folder, and sample its model. Damaged files become messages, not exceptions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from pydantic import ValidationError

from fromnoise.checkpoints import NotFinite
from fromnoise.config.components import dotted_components
from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import migrate_extractor
from fromnoise.config.overrides import dotted, parse_yaml
from fromnoise.config.recipe import load_recipe
from fromnoise.curves import COLOURS, is_number, series
from fromnoise.data import DataError
from fromnoise.data.labels import describe_labels, one_label_each
from fromnoise.data.text import natural_key
from fromnoise.evaluation.copies import evenly_spaced
from fromnoise.evaluation.records import LabelRecord, Metrics, Stored, Sweep, read_record
from fromnoise.model.model import Model, load, to_uint8
from fromnoise.progress import Progress, no_progress
from fromnoise.report.formatting import InlineImage, inline_png
from fromnoise.training.log import parse_log
from fromnoise.training.previews import FOLDER as PREVIEWS
from fromnoise.training.previews import read_preview

RECIPE, LOG, EVALUATION = "recipe.yaml", "log.jsonl", "evaluation"
KINDS: dict[str, tuple[type[Stored], str]] = {  # schema and pictures of a record
    "metrics": (Metrics, "copies.png"),
    "scores": (LabelRecord, "*.png"),
    "sweep": (Sweep, ""),
}
SAMPLES, STRIPS, STAGES = 16, 2, 10  # images, those with a denoising strip, timesteps of a strip
STEPS = 25  # of DDIM, which is fast and deterministic
MAX_PREVIEWS, MAX_IMAGES, MIN_COUNT = 16, 24, 4
PREVIEW_BYTES = 2 * 2**20  # pixels of all previews of a run
MAX_LINES_NAMED = 5


class Preview(NamedTuple):
    """Samples of the EMA weights from fixed noise, at one training step."""

    step: int
    images: np.ndarray  # uint8 (N, C, H, W)


class StoredRecord(NamedTuple):
    """An evaluation record with its pictures."""

    folder: str  # relative to the run
    content: Any
    pictures: list[InlineImage]


class Trajectory(NamedTuple):
    """Samples of the seeds 0, 1, …, and the denoising trajectories of the first ones."""

    model: Model
    parameters: int  # of the model
    steps: int
    captions: list[str]  # the labels of each image, "" for an unconditional model
    images: np.ndarray  # uint8 (N, C, H, W)
    stages: list[tuple[int, np.ndarray, np.ndarray]]
    """(t, x_t, the predicted x̂_0) from T to 0, each uint8 (STRIPS, C, H, W); x̂_0 = x_0 at 0."""


@dataclass(kw_only=True)
class RunFolder:
    """A run's recipe, log, previews, evaluation records and samples."""

    name: str  # unique on the page
    colour: str
    folder: Path
    recipe: dict[str, Any]  # dotted key → value
    rows: list[dict[str, Any]]  # of the log, sorted by step
    previews: list[Preview]
    records: dict[str, list[StoredRecord]]  # of each of KINDS, oldest first
    trajectory: Trajectory | None = None
    problems: list[str] = field(default_factory=list)  # messages about damaged files

    def scores(self) -> list[tuple[int, float, float, float, str, int]]:
        """Return the distances of `evaluation.every`: step, value, low, high, features, images."""
        scores = []
        for row in self.rows:
            match row.get("evaluation"):
                case {"fid": {"value": value, "low": low, "high": high}, **more} if all(
                    map(is_number, (value, low, high))
                ):
                    extractor = migrate_extractor({"name": str(more.get("extractor"))})["name"]
                    count = int(more.get("num_images", 0))
                    scores.append((row["step"], value, low, high, extractor, count))
        return scores

    def last(self, key: str) -> float | None:
        """Return the last value of one column of the log."""
        _, values = series(self.rows, key)
        return float(values[-1]) if len(values) else None

    def sample(self, *, progress: Progress) -> None:
        """Set `trajectory`, or add the error to `problems`. progress: as in `sample_trajectory`."""
        try:
            self.trajectory = sample_trajectory(self.folder, progress=progress)
        except (ValueError, OSError, NotFinite) as error:
            self.problems.append(f"sampling failed: {error}")


def read_run(folder: Path, name: str, colour: str = COLOURS[0]) -> RunFolder:
    """Read the files of a run. Raises ConfigError if `folder` is not a run."""
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"{folder.absolute()} is not a run: it has no {RECIPE}. Give a folder that `fromnoise "
            "train` wrote."
        )
    problems: list[str] = []
    return RunFolder(
        name=name,
        colour=colour,
        folder=folder,
        recipe=_recipe(folder / RECIPE, problems),
        rows=_rows(folder / LOG, problems),
        previews=_previews(folder / PREVIEWS, problems),
        records={kind: _records(folder, kind, problems) for kind in KINDS},
        problems=problems,
    )


def sample_trajectory(run: Path, *, progress: Progress = no_progress) -> Trajectory:
    """Sample the EMA weights of a run's newest checkpoint with DDIM and the recipe's guidance.

    All runs of a page share the initial noise. A model with labels gets each label in turn.
    progress is called with (steps done, total).
    Raises CheckpointError if the run has no complete checkpoint.
    """
    model = load(run, weights="ema")
    names, steps, seeds = model.spec.label_names, min(STEPS, model.spec.diffusion.T), range(SAMPLES)
    labels = one_label_each(names, SAMPLES) if names else None
    cond = None if labels is None else torch.from_numpy(labels)
    captions = [""] * SAMPLES if labels is None else [describe_labels(row, names) for row in labels]

    def to_numpy(x: torch.Tensor) -> np.ndarray:
        return to_uint8(x, model.spec.data_range).numpy()

    images, stages = to_numpy(model.start(seeds)), []
    how = {"sampler": "ddim", "steps": steps, "timesteps": model.spec.sampling.rule, "eta": 0.0}
    trajectory = model.denoise(seeds, cond=cond, **how)
    for done, step in enumerate(trajectory, start=1):
        stages.append((step.t, images[:STRIPS], to_numpy(step.x0[:STRIPS])))
        images = to_numpy(step.x)
        progress(done, steps)
    stages.append((0, images[:STRIPS], images[:STRIPS]))
    shown = [stages[i] for i in evenly_spaced(len(stages), STAGES)]
    count = sum(p.numel() for p in model.denoiser.parameters())
    return Trajectory(model, count, steps, captions, images, shown)


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
    values = {key: [recipe.get(key, "missing") for recipe in recipes] for key in all_keys(recipes)}
    return [key for key, of in values.items() if any(value != of[0] for value in of)]


def _recipe(file: Path, problems: list[str]) -> dict[str, Any]:
    """Return every key with its default, or only the written keys of an invalid recipe."""
    try:
        return dotted_components(load_recipe(file).model_dump(mode="json"))
    except (ConfigError, OSError) as error:
        problems.append(f"{RECIPE} is shown as written: {error}")
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return dotted(tree) if isinstance(tree, dict) else {}


def _rows(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        problems.append(f"{LOG} is missing, so there are no curves")
        return []
    lines = parse_log(file.parent)
    of_number = enumerate(lines, start=1)
    if damaged := [i for i, (line, row) in of_number if row is None and line.strip()]:
        more = ", …" * (len(damaged) > MAX_LINES_NAMED)
        first = ", ".join(map(str, damaged[:MAX_LINES_NAMED])) + more
        problems.append(f"{LOG}: {len(damaged)} of {len(lines)} lines cannot be read: {first}")
    return sorted((row for _, row in lines if row), key=lambda row: row["step"])


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
    chosen = evenly_spaced(len(previews), steps)
    return [Preview(previews[i].step, previews[i].images[:count]) for i in chosen]


def _records(run: Path, kind: str, problems: list[str]) -> list[StoredRecord]:
    model, pictures = KINDS[kind]
    records = []
    for file in sorted((run / EVALUATION).glob(f"*/{kind}.json")):
        where, folder = file.relative_to(run).as_posix(), file.parent
        try:
            content = model.model_validate(read_record(file, where=where))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "it"
            message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
            problems.append(f"{where} cannot be shown: {key}: {message}")
            continue
        except DataError as error:
            problems.append(str(error))
            continue
        record = StoredRecord(folder.relative_to(run).as_posix(), content, [])
        files = folder.glob(pictures) if pictures else ()
        for picture in sorted(files, key=lambda path: natural_key(path.name)):
            try:
                record.pictures.append(inline_png(picture))
            except (ValueError, OSError) as error:
                problems.append(f"{record.folder}/{picture.name} cannot be shown: {error}")
        records.append(record)
    return sorted(records, key=lambda record: record.content.date)
