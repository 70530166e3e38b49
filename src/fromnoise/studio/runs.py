"""Find the runs in a folder, and read the facts that pages show about them, without torch."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fromnoise.checkpoints import list_checkpoints
from fromnoise.config.overrides import parse_yaml

RECIPE, LOG, RUNS, PREVIEWS = "recipe.yaml", "log.jsonl", "runs", "previews"
MODEL_FILES = ("ema.safetensors", "model.safetensors")
TAIL = 2**14  # bytes of a log that hold its last row


class RunFacts(NamedTuple):
    """The facts about a run that its card shows."""

    id: str
    name: str
    path: Path
    changed: float  # seconds since the epoch
    source: str = ""
    network: str = ""
    step: int = 0
    steps: int = 0  # 0 if unknown yet
    has_model: bool = False
    previews: tuple[int, ...] = ()  # their steps


class Runs:
    """The runs in a folder, in its `runs/`, and the folder itself if it is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: dict[str, Path] = {}

    def list(self) -> list[RunFacts]:
        """Return all runs, the most recently changed first."""
        found = [read_facts(path) for path in self.paths()]
        self._paths |= {facts.id: facts.path for facts in found}
        return sorted(found, key=lambda facts: facts.changed, reverse=True)

    def find(self, id: str) -> Path:
        """Return the folder of a run. Raises KeyError."""
        if id not in self._paths:
            self.list()
        path = self._paths[id]
        if not is_run(path):
            raise KeyError(id)
        return path

    def paths(self) -> Iterator[Path]:
        """Yield the folders of the runs."""
        if is_run(self.folder):
            yield self.folder
        for parent in (self.folder / RUNS, self.folder):
            try:
                inside = sorted(parent.iterdir())
            except OSError:
                continue
            yield from (path for path in inside if not path.name.startswith(".") and is_run(path))


def is_run(path: Path) -> bool:
    """Return whether a folder is a run or an imported model."""
    return any((path / name).is_file() for name in (RECIPE, *MODEL_FILES))


def id_of(path: Path) -> str:
    """Return the id of a run, which addresses contain instead of its path."""
    return hashlib.blake2b(str(path.absolute()).encode(), digest_size=6).hexdigest()


def read_facts(path: Path) -> RunFacts:
    """Read the facts about a run from its files."""
    recipe, row = read_recipe(path), last_row(path)
    files = [path / name for name in (RECIPE, LOG, PREVIEWS, *MODEL_FILES)]
    network = recipe.get("network")
    return RunFacts(
        id=id_of(path),
        name=path.name,
        path=path,
        changed=max((file.stat().st_mtime for file in files if file.exists()), default=0.0),
        source=str(_section(recipe, "data").get("source", "")),
        network=str(network.get("name") if isinstance(network, dict) else network or ""),
        step=row.get("step", 0),
        steps=_whole(_section(recipe, "training").get("steps")),
        has_model=has_model(path),
        previews=tuple(preview_steps(path)),
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the recipe of a run as it is stored; empty if it cannot be read."""
    try:
        tree = parse_yaml((path / RECIPE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def has_model(path: Path) -> bool:
    """Return whether a folder has a model; it may be damaged."""
    lone = any((path / name).is_file() for name in MODEL_FILES)
    return lone or bool(list_checkpoints(path / "checkpoints"))


def preview_steps(path: Path) -> list[int]:
    """Return the steps of a run that have a preview."""
    return sorted(int(f.stem) for f in (path / PREVIEWS).glob("*.npz") if f.stem.isdecimal())


def last_row(path: Path) -> dict[str, Any]:
    """Return the step of the last whole row of a run's log, and the last known speed."""
    try:
        with (path / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    rows = [row for line in reversed(lines) if (row := parse_row(line)) is not None]
    measured = next((row for row in rows if "images_per_second" in row), {})
    return {**measured, "step": rows[0]["step"]} if rows else {}


def parse_row(line: bytes) -> dict[str, Any] | None:
    """Return a row of a log, or None for a damaged line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _section(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    section = recipe.get(name)
    return section if isinstance(section, dict) else {}


def _whole(value: Any) -> int:
    return value if type(value) is int else 0
