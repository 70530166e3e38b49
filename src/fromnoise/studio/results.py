"""Store the images that the studio writes: folders studio/ID of a run, each with a record."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fromnoise.checkpoints import atomic_file

FOLDER, RECORD, INPUTS = "studio", "record.json", "inputs"
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


class Result(BaseModel):
    """The record of sampled or edited images, written last: without it a folder is incomplete."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # keys of a later version
    id: str
    kind: str
    made: str  # the time, in ISO 8601
    seconds: float
    command: str  # writes the same files
    request: dict[str, Any]
    settings: dict[str, str]
    size: tuple[int, int]  # (H, W)
    seeds: list[int]  # of each picture
    captions: list[str]  # labels of each picture, or ""
    files: list[str]  # PNGs
    others: list[str]  # grid.png, denoising.gif, …
    inputs: list[str] = []  # ids of the images that were edited


def write_result(result: Result, folder: Path) -> None:
    """Write the record of a folder."""
    with atomic_file(folder / RECORD) as writing:
        writing.write_text(result.model_dump_json(), encoding="utf-8")


def results_of(run: Path) -> list[Result]:
    """Return the complete results of a run, newest first."""
    found = []
    for folder in sorted((run / FOLDER).glob("*-*-*"), reverse=True):
        if ID.fullmatch(folder.name) and (result := read_result(folder)):
            found.append(result)
    return found


def read_result(folder: Path) -> Result | None:
    """Return the record of a folder, or None if it is missing or damaged."""
    try:
        content = (folder / RECORD).read_text(encoding="utf-8")
        result = Result.model_validate_json(content)
    except (OSError, UnicodeDecodeError, ValidationError):
        return None
    names = [*result.files, *result.others]
    whole = all(Path(name).name == name and (folder / name).is_file() for name in names)
    return result if whole and len(result.files) == len(result.seeds) else None
