"""metrics.json and its table: how they begin, and how they come to the disk."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fromnoise.evaluation.set_table import Record, table
from fromnoise.explaining import ConfigError

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


def refuse_scored(folder: Path) -> None:
    """Raise ConfigError where `folder` has scores already."""
    if (folder / METRICS_FILE).exists():
        raise ConfigError(
            f"{folder.absolute()} has the scores of an earlier evaluation; give another --out, or "
            "remove it"
        )
