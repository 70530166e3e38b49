"""Source `iclevr`: images with several labels each, as i-CLEVR has them.

objects.json    {name: id}, ids 0..K-1
train.json      {file name: [names]}
test.json, new_test.json    conditions to draw images for; see `conditions`
iclevr/         the images; any other folder inside, or beside the files, is found too
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.decoding.decode import Header, read_header, read_picture
from fromnoise.data.decoding.transforms import Picture
from fromnoise.data.errors import BrokenImage, DataError, first_few
from fromnoise.data.labels.names import nearest
from fromnoise.data.sources.base import Listing, Pictures, Request, existing, stat_stamp
from fromnoise.data.text import read_json

OBJECTS, TRAIN = "objects.json", "train.json"
_USUAL = ("iclevr", "images", "")


def iclevr(request: Request) -> Listing:
    """The images that train.json names: +1 for the objects it lists, -1 for all others.

    A file that is not there counts as one that cannot be read.
    """
    root = existing(request.path, source="iclevr")
    if not root.is_dir():
        raise DataError(f"data.path: {root} is a file; source iclevr needs a folder")
    if request.split != "train":
        raise DataError(
            f"data.split is {request.split!r}, but test.json and new_test.json of i-CLEVR hold "
            "conditions to draw images for, and no images; leave it at 'train'"
        )
    if not has_iclevr(root):
        raise DataError(f"data.path: {root} lacks {OBJECTS} or {TRAIN}; source iclevr needs both")
    label_names = read_objects(root / OBJECTS)
    named = _read_train(root / TRAIN, label_names)
    names = list(named)
    folder = _image_folder(root, names)
    present = {entry.name: entry.stat() for entry in os.scandir(folder) if entry.is_file()}

    def content(i: int) -> Path:
        if names[i] not in present:
            raise BrokenImage(f"named in {TRAIN}, but not in {folder.name}/")
        return folder / names[i]

    def look(i: int) -> Header:
        try:
            with open(content(i), "rb") as file:
                return read_header(file)
        except OSError as error:
            raise BrokenImage(error.strerror or str(error)) from error

    def read(i: int) -> Picture:
        try:
            data = content(i).read_bytes()
        except OSError as error:
            raise BrokenImage(error.strerror or str(error)) from error
        return read_picture(data, background=request.background)

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        yield Pictures(names, look, read, _signs(named, label_names), label_names)

    images = [
        [name, stat.st_size, stat.st_mtime_ns] if (stat := present.get(name)) else [name]
        for name in names
    ]
    files = [stat_stamp(root / name) for name in (OBJECTS, TRAIN)]
    return Listing([files, folder.relative_to(root).as_posix(), images], open_pictures)


def has_iclevr(folder: Path) -> bool:
    """Whether a folder holds objects.json and train.json."""
    return all((folder / name).is_file() for name in (OBJECTS, TRAIN))


def read_objects(path: Path, *, where: str = "data.path") -> tuple[str, ...]:
    """The names of an objects.json in the order of their ids.

    where: how errors begin. Raises `DataError` where the file is not {name: id} with each of the
    ids 0..K-1 once.
    """
    ids = read_json(path, where=f"{where}: {path}")
    if not isinstance(ids, dict) or not ids or not all(type(i) is int for i in ids.values()):
        raise DataError(f'{where}: {path} is not {{"name": id, …}} with whole numbers as ids')
    if sorted(ids.values()) != list(range(len(ids))):
        said = Counter(ids.values())
        twice = [f"{i} is said {n} times" for i, n in sorted(said.items()) if n > 1]
        absent = [f"{i} is missing" for i in range(len(ids)) if i not in said]
        raise DataError(
            f"{where}: the ids of {path} are not 0..{len(ids) - 1}, each once: "
            f"{first_few(twice + absent)}"
        )
    return tuple(sorted(ids, key=lambda name: ids[name]))


def _read_train(path: Path, label_names: Sequence[str]) -> dict[str, list[str]]:
    named = read_json(path, where=f"data.path: {path}")
    if not isinstance(named, dict) or not named:
        raise DataError(f'data.path: {path} is not {{"file name": ["name", …], …}}')
    for file, names in named.items():
        _check_names(names, label_names, where=f"data.path: {path}: {file}")
    return named


def _check_names(names: Any, known: Sequence[str], *, where: str) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{where}: {json.dumps(names)} is not a list of names: ["name", …]')
    if not names:
        raise DataError(f"{where} has an empty list of names; name at least one")
    for name in names:
        if name not in known:
            raise DataError(f"{where}: there is no label {name!r}{nearest(name, known)}")


def _signs(named: Mapping[str, Sequence[str]], label_names: Sequence[str]) -> np.ndarray:
    """Labels int8 (N, K): +1 for what is named, -1 for the rest."""
    number = {name: k for k, name in enumerate(label_names)}
    signs = np.full((len(named), len(label_names)), -1, dtype=np.int8)
    for i, names in enumerate(named.values()):
        signs[i, [number[name] for name in names]] = 1
    return signs


def _image_folder(root: Path, names: Sequence[str]) -> Path:
    """The folder with most of the files: one inside `root`, or `root`."""
    inside = sorted(path.name for path in root.iterdir() if path.is_dir())
    looked = [name for name in _USUAL if name in inside or not name]
    looked += [name for name in inside if name not in looked and not name.startswith(".")]
    held = {name: len(set(names).intersection(os.listdir(root / name))) for name in looked}
    best = max(looked, key=lambda name: held[name])
    if not held[best]:
        places = ", ".join(str(root / name) for name in looked)
        raise DataError(
            f"data.path: none of the {len(names)} images that {TRAIN} names ({first_few(names)}) "
            f"was found; looked in {places}; put their folder into {root}"
        )
    return root / best
