"""Find the labels of image files: in a label file beside them, or from their sub-folders.

A label file is used if it is in the folder that contains all images, or in a folder above. Images
that it does not name have no known labels (0).

Without a label file, sub-folders are classes: the first folder of each path below the folder that
contains all images (`photos/` in `photos.zip`). An image outside the class folders has no known
class (0). If no image is in a sub-folder, there are no labels.
"""

from collections.abc import Container, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from fromnoise.data.errors import DataError, abbreviate
from fromnoise.data.labels.files import LABEL_FILES
from fromnoise.data.labels.names import one_hot
from fromnoise.data.text import decode_utf8, natural_key


def find_label_file(files: Container[str], images: Sequence[str], *, where: Path) -> str | None:
    """Return which of the relative names `files` is the label file of these images, or None.

    Raises `DataError` if there are several.
    """
    shared = _shared_folder(images)
    folders = [PurePosixPath(*shared[:depth]) for depth in range(len(shared) + 1)]
    names = [str(folder / name) for folder in folders for name in LABEL_FILES]
    label_files = [name for name in names if name in files]
    if len(label_files) > 1:
        raise DataError(
            f"data.path: {where} has several label files: {' and '.join(label_files)}. Keep one."
        )
    return label_files[0] if label_files else None


def file_labels(
    images: Sequence[str], label_file: str, content: bytes, *, where: str
) -> tuple[list[str], np.ndarray | None, tuple[str, ...]]:
    """Return the labels that a label file gives to images.

    images: relative names; `label_file` is relative to the same folder. where: the beginning of
    error messages.

    Returns the N names: first `images`, then the files that are named but missing; labels int8
    (N, K), or None if the file states that there are none; and the K label names. Raises
    `DataError` for an invalid file, and if it names none of the images.
    """
    path = PurePosixPath(label_file)
    rows, label_names = LABEL_FILES[path.name](decode_utf8(content, where=where), where=where)
    if not rows:
        return list(images), None, ()
    labels_of: dict[str, np.ndarray] = {}
    for file, row in rows.items():
        name = str(path.parent / file)
        if name in labels_of:  # "./a.png" and "a.png" are one file
            raise DataError(f"{where} has the file {name!r} twice. Remove one of them.")
        labels_of[name] = row
    missing = labels_of.keys() - set(images)
    if len(missing) == len(labels_of):
        relative = [str(PurePosixPath(name).relative_to(path.parent)) for name in images]
        raise DataError(
            f"{where}: none of the {len(rows)} files that it names exists ({abbreviate(list(rows))}"
            f"). Name the images by their paths from its folder: {abbreviate(relative)}."
        )
    names = [*images, *(name for name in labels_of if name in missing)]
    unknown = np.zeros(len(label_names), dtype=np.int8)
    return names, np.stack([labels_of.get(name, unknown) for name in names]), label_names


def folder_labels(names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return labels int8 (N, K) and the K class names of relative file names, by sub-folder."""
    depth = len(_shared_folder(names))
    folders = [PurePosixPath(name).parts[depth:-1] for name in names]
    classes = [steps[0] if steps else "" for steps in folders]
    label_names = tuple(sorted(set(classes) - {""}, key=natural_key))
    if not label_names:
        return None, ()
    number = {name: i for i, name in enumerate(label_names)} | {"": -1}
    return one_hot(np.array([number[name] for name in classes]), len(label_names)), label_names


def _shared_folder(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of the path to the folder that contains all of these files."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # any prefix they share, all share
    return tuple(step for step, _ in takewhile(lambda steps: steps[0] == steps[1], ends))
