"""Sources `folder` and `zip`: image files in natural order, with their labels.

A label file is used if it is in the folder that contains all images, or in a folder above. Images
that it does not name have no known labels (0). A file that it names, but that is missing, counts
as a broken image.

Without a label file, sub-folders are classes: the first folder of each path below the folder that
contains all images (`photos/` in `photos.zip`). An image outside the class folders has no known
class (0). If no image is in a sub-folder, there are no labels.
"""

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from fromnoise.data.decoding.decode import ACCEPTED, EXTENSIONS
from fromnoise.data.decoding.transforms import RGB
from fromnoise.data.errors import DataError, abbreviate, unreadable
from fromnoise.data.labels.files import LABEL_FILES
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import (
    ImageReader,
    SourceListing,
    SourceRequest,
    file_reader,
    require_path,
    stat_stamp,
)
from fromnoise.data.text import decode_utf8, natural_key


def folder(request: SourceRequest) -> SourceListing:
    """Open every image below a folder. Links are followed; hidden files and `__MACOSX` are not."""
    root = require_path(request, "folder", folder=True)
    stats = dict(_walk(root))
    if request.only is not None:
        stats = {name: stats[name] for name in request.only if name in stats}
    images, label_file = _choose(stats, root)

    def open_reader() -> ImageReader:
        return _reader(
            images, label_file, lambda name: (root / name).open("rb"), root, request.background
        )

    files = [*images, label_file] if label_file else images
    stamp = [[name, stats[name].st_size, stats[name].st_mtime_ns] for name in files]
    return SourceListing(stamp, open_reader)


def zip_file(request: SourceRequest) -> SourceListing:
    """Open every image in a zip archive, as in a folder. The archive is never unpacked."""
    path = require_path(request, "zip")

    def open_reader() -> ImageReader:
        with ExitStack() as stack:
            problem = f"data.path: {path} cannot be read as a zip archive"
            with unreadable(problem, zipfile.BadZipFile, OSError):
                archive = stack.enter_context(zipfile.ZipFile(path))
            files = [info for info in archive.infolist() if not info.is_dir()]
            members = {str(PurePosixPath(info.filename)): info for info in files}
            chosen, background = _choose(members, path), request.background
            reader = _reader(*chosen, lambda name: archive.open(members[name]), path, background)
            return replace(reader, close=stack.pop_all().close)

    return SourceListing(stat_stamp(path), open_reader)


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


def _choose(files: Collection[str], where: Path) -> tuple[list[str], str | None]:
    """Return the images among these relative names, in natural order, and their label file."""

    def hidden(step: str) -> bool:
        return step.startswith(".") or step == "__MACOSX"

    visible = [name for name in files if not any(map(hidden, PurePosixPath(name).parts))]
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not images:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no extension" for name in visible)
        counts = ", ".join(f"{kind} ×{count}" for kind, count in kinds.most_common(6))
        others = f"only {counts}" if counts else "and no other files"
        raise DataError(f"data.path: {where} has no images, {others}. {ACCEPTED}")
    shared = _shared_folder(images)
    folders = [PurePosixPath(*shared[:depth]) for depth in range(len(shared) + 1)]
    names = [str(folder / name) for folder in folders for name in LABEL_FILES]
    label_files = [name for name in names if name in files]
    if len(label_files) > 1:
        raise DataError(
            f"data.path: {where} has several label files: {' and '.join(label_files)}. Keep one."
        )
    return sorted(images, key=natural_key), label_files[0] if label_files else None


def _reader(
    images: Sequence[str],
    label_file: str | None,
    open_file: Callable[[str], IO[bytes]],
    where: Path,
    background: RGB,
) -> ImageReader:
    """Return a reader of the images, then of the missing files that the label file names."""
    names, path = images, PurePosixPath(label_file or "")
    labels, label_names = (None, ()) if label_file else folder_labels(images)
    if label_file:
        place = f"data.path: {where / label_file}"
        # any exception, as for an image
        with unreadable(f"{place} cannot be read", Exception), open_file(label_file) as file:
            content = file.read()
        rows, label_names = LABEL_FILES[path.name](decode_utf8(content, where=place), where=place)
        labels_of: dict[str, np.ndarray] = {}
        for file, row in rows.items():
            name = str(path.parent / file)
            if name in labels_of:  # "./a.png" and "a.png" are one file
                raise DataError(f"{place} has the file {name!r} twice. Remove one of them.")
            labels_of[name] = row
        missing = labels_of.keys() - set(images)
        if rows and len(missing) == len(labels_of):
            relative = [str(PurePosixPath(name).relative_to(path.parent)) for name in images]
            raise DataError(
                f"{place}: none of the {len(rows)} files that it names exists "
                f"({abbreviate(list(rows))}). Name the images by their paths from its folder: "
                f"{abbreviate(relative)}."
            )
        names = [*images, *(name for name in labels_of if name in missing)]
        if rows:
            unknown = np.zeros(len(label_names), dtype=np.int8)
            labels = np.stack([labels_of.get(name, unknown) for name in names])
    return file_reader(
        names,
        open_file,
        found=set(images),
        missing=f"named in {path.name}, but not among the images of {where.name}",
        background=background,
        labels=labels,
        label_names=label_names,
        labels_from=label_file or "sub-folders",
    )


def _shared_folder(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of the path to the folder that contains all of these files."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # any prefix they share, all share
    return tuple(step for step, _ in takewhile(lambda steps: steps[0] == steps[1], ends))


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative name, separated by "/", and the stat of every file."""
    visited: set[str] = set()  # a link to a parent folder would never end

    def refuse(error: OSError) -> None:
        raise DataError(f"data.path: {error.filename} cannot be read: {error.strerror}") from error

    for folder_path, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder_path)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        for file in files:
            path = Path(folder_path, file)
            name = path.relative_to(root).as_posix()
            try:
                yield name, path.stat()
            except OSError:  # a broken link is kept, and reported as a broken image
                yield name, path.lstat()
