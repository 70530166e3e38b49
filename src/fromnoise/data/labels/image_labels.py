"""The labels of image files by their names: from the label file beside them, or their sub-folders.

A label file counts where it lies in the folder that holds all images or above it. What it does not
name has no label said (0).

Without one a sub-folder is a class: the first folder of each path, below the folder that holds all
images (`photos/` in `photos.zip`). An image beside the class folders has no class said (0), and
where no image lies in a folder there are no labels at all.
"""

from collections.abc import Container, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from fromnoise.data.errors import DataError, first_few
from fromnoise.data.labels.files import LABEL_FILES
from fromnoise.data.labels.names import one_hot
from fromnoise.data.text import natural_key, utf8_text


def find_label_file(found: Container[str], images: Sequence[str], *, where: Path) -> str | None:
    """Which of the relative names `found` is the label file of these images.

    Raises `DataError` where there are two.
    """
    shared = _shared_folder(images)
    places = [PurePosixPath(*shared[:depth]) for depth in range(len(shared) + 1)]
    names = [str(place / name) for place in places for name in LABEL_FILES]
    there = [name for name in names if name in found]
    if len(there) > 1:
        raise DataError(f"data.path: {where} has labels in {' and in '.join(there)}; keep one")
    return there[0] if there else None


def file_labels(
    images: Sequence[str], label_file: str, content: bytes, *, where: str
) -> tuple[list[str], np.ndarray | None, tuple[str, ...]]:
    """What a label file says of images, and of others after them, which it names too.

    Arguments:
        images: relative names; `label_file` is relative to the same folder.
        where: how errors begin.

    Returns the N names, those of the images first; labels int8 (N, K), None where the file says
    that there are none; and the K names of the labels. Raises `DataError` for what `LABEL_FILES`
    refuse, and where none of the images is named.
    """
    path = PurePosixPath(label_file)
    rows, label_names = LABEL_FILES[path.name](utf8_text(content, where=where), where=where)
    if not rows:
        return list(images), None, ()
    said: dict[str, np.ndarray] = {}
    for file, row in rows.items():
        name = str(path.parent / file)
        if name in said:  # "./a.png" and "a.png" are one file
            raise DataError(f"{where} says {name!r} twice; say each file once")
        said[name] = row
    missing = said.keys() - set(images)
    if len(missing) == len(said):
        there = [str(PurePosixPath(name).relative_to(path.parent)) for name in images]
        raise DataError(
            f"{where}: none of the {len(rows)} files that it names ({first_few(list(rows))}) is "
            f"there; the images are called like this: {first_few(there)}"
        )
    names = [*images, *(name for name in said if name in missing)]
    labels = np.zeros((len(names), len(label_names)), dtype=np.int8)
    for i, name in enumerate(names):
        if name in said:
            labels[i] = said[name]
    return names, labels, label_names


def folder_labels(names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels int8 (N, K) and the K class names of relative file names; see the module."""
    depth = len(_shared_folder(names))
    folders = [PurePosixPath(name).parts[depth:-1] for name in names]
    classes = [steps[0] if steps else "" for steps in folders]
    label_names = tuple(sorted(set(classes) - {""}, key=natural_key))
    if not label_names:
        return None, ()
    number = {name: i for i, name in enumerate(label_names)} | {"": -1}
    return one_hot(np.array([number[name] for name in classes]), len(label_names)), label_names


def _shared_folder(names: Sequence[str]) -> tuple[str, ...]:
    """The steps to the folder that holds all of these files."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # what these share, all of them share
    return tuple(step for step, _ in takewhile(lambda steps: steps[0] == steps[1], ends))
