"""Sources `folder` and `zip`: image files of every kind, in natural order, with their labels.

Where the labels come from is said in `labelling`. A file that only a label file names counts as
one that cannot be read.
"""

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from fromnoise.data.decoding.decode import ACCEPTED, EXTENSIONS, Header, read_header, read_picture
from fromnoise.data.decoding.transforms import RGB, Picture
from fromnoise.data.errors import BrokenImage, DataError
from fromnoise.data.labels.image_labels import file_labels, find_label_file, folder_labels
from fromnoise.data.sources.base import (
    Listing,
    Pictures,
    Request,
    existing,
    stat_stamp,
    train_only,
)
from fromnoise.data.text import natural_key


def folder(request: Request) -> Listing:
    """Every image below a folder. Links are followed; hidden files and `__MACOSX` are not."""
    root = existing(request.path, source="folder")
    train_only(request.split, source="folder")
    if not root.is_dir():
        raise DataError(f"data.path: {root} is a file; source folder needs a folder")
    found = dict(_walk(root))
    if request.only is not None:
        found = {name: found[name] for name in request.only if name in found}
    images = _image_names(found, where=root)
    label_file = find_label_file(found, images, where=root)

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        yield _pictures(
            images,
            label_file,
            lambda name: (root / name).open("rb"),
            where=root,
            background=request.background,
        )

    seen = [*images, label_file] if label_file else images
    stamp = [[name, found[name].st_size, found[name].st_mtime_ns] for name in seen]
    return Listing(stamp, open_pictures)


def zip_file(request: Request) -> Listing:
    """The same of a zip archive, which is read where it lies and never unpacked."""
    path = existing(request.path, source="zip")
    train_only(request.split, source="zip")

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"data.path: {path} is not a zip archive that opens: {error}"
            ) from error
        with archive:
            members = {
                str(PurePosixPath(info.filename)): info
                for info in archive.infolist()
                if not info.is_dir()
            }
            images = _image_names(members, where=path)
            yield _pictures(
                images,
                find_label_file(members, images, where=path),
                lambda name: archive.open(members[name]),
                where=path,
                background=request.background,
            )

    return Listing(stat_stamp(path), open_pictures)


def _pictures(
    images: Sequence[str],
    label_file: str | None,
    open_file: Callable[[str], IO[bytes]],
    *,
    where: Path,
    background: RGB,
) -> Pictures:
    """The images, and after them those that the label file names and that are not there."""
    if label_file is None:
        names, (labels, label_names) = images, folder_labels(images)
    else:
        begin = f"data.path: {where / label_file}"
        try:
            with open_file(label_file) as file:
                content = file.read()
        except Exception as error:  # as for an image
            raise DataError(f"{begin} cannot be read: {_reason(error)}") from error
        names, labels, label_names = file_labels(images, label_file, content, where=begin)

    @contextmanager
    def opened(i: int) -> Iterator[IO[bytes]]:
        if label_file and i >= len(images):
            kind = PurePosixPath(label_file).name
            raise BrokenImage(f"named in {kind}, but not among the images of {where.name}")
        try:
            with open_file(names[i]) as file:
                yield file
        except (BrokenImage, MemoryError):
            raise
        except Exception as error:  # of a zip: bad CRC, password, unknown compression, bad deflate
            raise BrokenImage(_reason(error)) from error

    def look(i: int) -> Header:
        with opened(i) as file:
            return read_header(file)

    def read(i: int) -> Picture:
        with opened(i) as file:
            data = file.read()
        return read_picture(data, background=background)

    labels_from = label_file or "sub-folders"
    return Pictures(names, look, read, labels, label_names, labels_from)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative names, with "/" between the steps, and stat of every file that is not hidden."""
    seen: set[str] = set()  # a link to a folder above would never end

    def refuse(error: OSError) -> None:
        raise DataError(f"data.path: {error.filename} cannot be read: {error.strerror}") from error

    for folder_path, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        here = os.path.realpath(folder_path)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders.sort()
        for file in files:
            path = Path(folder_path, file)
            name = path.relative_to(root).as_posix()
            try:
                yield name, path.stat()
            except OSError:  # a link to nowhere is kept, so that it is named among the broken
                yield name, path.lstat()


def _image_names(names: Iterable[str], *, where: Path) -> list[str]:
    visible = [name for name in names if not _hidden(name)]
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not images:
        seen = Counter(PurePosixPath(name).suffix.lower() or "no extension" for name in visible)
        listed = ", ".join(f"{kind} ×{count}" for kind, count in seen.most_common(6))
        raise DataError(
            f"data.path: {where} has no images; seen: {listed or 'no files'}; {ACCEPTED}"
        )
    return sorted(images, key=natural_key)


def _hidden(name: str) -> bool:
    return any(step.startswith(".") or step == "__MACOSX" for step in PurePosixPath(name).parts)


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else None
    return said or " ".join(str(error).split()) or type(error).__name__
