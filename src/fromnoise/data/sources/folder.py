"""Sources `folder` and `zip`: image files in natural order, with their labels.

`labels/image_labels.py` describes where the labels come from. A file that is missing, but named in
the label file, counts as a broken image.
"""

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from fromnoise.data.decoding.decode import ACCEPTED, EXTENSIONS
from fromnoise.data.decoding.transforms import RGB
from fromnoise.data.errors import BrokenImage, DataError, reason
from fromnoise.data.labels.image_labels import file_labels, find_label_file, folder_labels
from fromnoise.data.sources.base import (
    ImageReader,
    SourceListing,
    SourceRequest,
    file_reader,
    require_path,
    require_train_split,
    stat_stamp,
)
from fromnoise.data.text import natural_key


def folder(request: SourceRequest) -> SourceListing:
    """Open every image below a folder. Links are followed; hidden files and `__MACOSX` are not."""
    root = require_path(request.path, source="folder")
    require_train_split(request.split, source="folder")
    if not root.is_dir():
        raise DataError(f"data.path: {root} is a file. Source folder needs a folder.")
    stats = dict(_walk(root))
    if request.only is not None:
        stats = {name: stats[name] for name in request.only if name in stats}
    images = _image_names(stats, where=root)
    label_file = find_label_file(stats, images, where=root)

    @contextmanager
    def open_reader() -> Iterator[ImageReader]:
        yield _reader(
            images,
            label_file,
            lambda name: (root / name).open("rb"),
            where=root,
            background=request.background,
        )

    files = [*images, label_file] if label_file else images
    stamp = [[name, stats[name].st_size, stats[name].st_mtime_ns] for name in files]
    return SourceListing(stamp, open_reader)


def zip_file(request: SourceRequest) -> SourceListing:
    """Open every image in a zip archive, as in a folder. The archive is never unpacked."""
    path = require_path(request.path, source="zip")
    require_train_split(request.split, source="zip")

    @contextmanager
    def open_reader() -> Iterator[ImageReader]:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"data.path: {path} cannot be read as a zip archive: {reason(error)}"
            ) from error
        with archive:
            members = {
                str(PurePosixPath(info.filename)): info
                for info in archive.infolist()
                if not info.is_dir()
            }
            images = _image_names(members, where=path)
            yield _reader(
                images,
                find_label_file(members, images, where=path),
                lambda name: archive.open(members[name]),
                where=path,
                background=request.background,
            )

    return SourceListing(stat_stamp(path), open_reader)


def _reader(
    images: Sequence[str],
    label_file: str | None,
    open_file: Callable[[str], IO[bytes]],
    *,
    where: Path,
    background: RGB,
) -> ImageReader:
    """Return a reader of the images, then of the missing files that the label file names."""
    if label_file is None:
        names, (labels, label_names) = images, folder_labels(images)
    else:
        label_path = f"data.path: {where / label_file}"
        try:
            with open_file(label_file) as file:
                content = file.read()
        except Exception as error:  # as for an image
            raise DataError(f"{label_path} cannot be read: {reason(error)}") from error
        names, labels, label_names = file_labels(images, label_file, content, where=label_path)

    def open_image(i: int) -> IO[bytes]:
        if label_file and i >= len(images):
            kind = PurePosixPath(label_file).name
            raise BrokenImage(f"named in {kind}, but not among the images of {where.name}")
        return open_file(names[i])

    return file_reader(
        names,
        open_image,
        background=background,
        labels=labels,
        label_names=label_names,
        labels_from=label_file or "sub-folders",
    )


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


def _image_names(names: Iterable[str], *, where: Path) -> list[str]:
    visible = [name for name in names if not _hidden(name)]
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not images:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no extension" for name in visible)
        counts = ", ".join(f"{kind} ×{count}" for kind, count in kinds.most_common(6))
        others = f"only {counts}" if counts else "and no other files"
        raise DataError(f"data.path: {where} has no images, {others}. {ACCEPTED}")
    return sorted(images, key=natural_key)


def _hidden(name: str) -> bool:
    return any(step.startswith(".") or step == "__MACOSX" for step in PurePosixPath(name).parts)
