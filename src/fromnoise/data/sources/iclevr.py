"""Source `iclevr`: images with several labels each, in the layout of i-CLEVR.

objects.json    {name: id}, ids 0..K−1
train.json      {file name: [names]}
test.json, new_test.json    conditions to sample for; see `read_conditions`
iclevr/         the images, or any other folder inside the root, or the root itself
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fromnoise.data.errors import DataError, abbreviate
from fromnoise.data.labels.files import lists_of_names
from fromnoise.data.labels.names import suggest_labels
from fromnoise.data.sources.base import (
    ImageReader,
    SourceListing,
    SourceRequest,
    file_reader,
    require_path,
    stat_stamp,
)
from fromnoise.data.text import read_json

OBJECTS, TRAIN = "objects.json", "train.json"
_USUAL_FOLDERS = ("iclevr", "images", "")


def iclevr(request: SourceRequest) -> SourceListing:
    """Open the images in train.json: +1 for the objects that it lists, −1 for all others.

    A missing file counts as a broken image.
    """
    root = require_path(request, "iclevr", splits=True, folder=True)
    if request.split != "train":
        raise DataError(
            f"data.split is {request.split!r}, but test.json and new_test.json of i-CLEVR have "
            "only conditions and no images. Leave it at 'train'."
        )
    if not has_iclevr(root):
        raise DataError(f"data.path: {root} lacks {OBJECTS} or {TRAIN}. Add the missing file.")
    label_names = read_objects(root / OBJECTS)
    where = f"data.path: {root / TRAIN}"
    named = lists_of_names(read_json(root / TRAIN, where=where), where=where)
    for file, present in named.items():
        if not present:
            raise DataError(f"{where}: {file!r} has no names. Add at least one.")
        for name in present:
            if name not in label_names:
                hint = suggest_labels(name, label_names)
                raise DataError(f"{where}: {file!r}: there is no label {name!r}. {hint}")
    names = list(named)
    signs = [[1 if name in present else -1 for name in label_names] for present in named.values()]
    labels = np.array(signs, dtype=np.int8)
    folder = _image_folder(root, names)
    found = {entry.name for entry in os.scandir(folder) if entry.is_file()}

    def open_reader() -> ImageReader:
        return file_reader(
            names,
            lambda name: (folder / name).open("rb"),
            found=found,
            missing=f"named in {TRAIN}, but not in {folder.name}/",
            background=request.background,
            labels=labels,
            label_names=label_names,
        )

    images = [stat_stamp(folder / name) if name in found else [name] for name in names]
    files = [stat_stamp(root / name) for name in (OBJECTS, TRAIN)]
    return SourceListing([files, folder.relative_to(root).as_posix(), images], open_reader)


def has_iclevr(folder: Path) -> bool:
    """Return whether a folder contains objects.json and train.json."""
    return all((folder / name).is_file() for name in (OBJECTS, TRAIN))


def read_objects(path: Path, *, where: str = "data.path") -> tuple[str, ...]:
    """Read the names in an objects.json, in the order of their ids.

    where: the beginning of error messages. Raises `DataError` if the file is not {name: id} with
    each of the ids 0..K−1 once.
    """
    ids = read_json(path, where=f"{where}: {path}")
    if not isinstance(ids, dict) or not ids or not all(type(i) is int for i in ids.values()):
        raise DataError(f'{where}: {path} is invalid. Write {{"name": id, …}} with whole numbers.')
    counts = Counter(ids.values())
    wrong = [
        f"{i} appears {counts[i]} times" if counts[i] else f"{i} is missing"
        for i in range(len(ids))
        if counts[i] != 1
    ]
    if wrong:
        raise DataError(
            f"{where}: the ids in {path} are wrong: {abbreviate(wrong)}. Use each of "
            f"0..{len(ids) - 1} once."
        )
    return tuple(sorted(ids, key=ids.__getitem__))


def _image_folder(root: Path, names: Sequence[str]) -> Path:
    """Return the folder, `root` or one inside it, that contains most of the files."""
    inside = sorted(path.name for path in root.iterdir() if path.is_dir())
    folders = [name for name in _USUAL_FOLDERS if name in inside or not name]
    folders += [name for name in inside if name not in folders and not name.startswith(".")]
    counts = {name: len(set(names).intersection(os.listdir(root / name))) for name in folders}
    best = max(folders, key=lambda name: counts[name])
    if not counts[best]:
        places = ", ".join(str(root / name) for name in folders)
        raise DataError(
            f"data.path: none of the {len(names)} images that {TRAIN} names ({abbreviate(names)}) "
            f"is in {places}. Move their folder into {root}."
        )
    return root / best
