"""Sources `folder` and `zip`: image files of every kind, in natural order, sub-folder = class.

Folders that hold everything else (`photos/` in `photos.zip`) are stepped into first. Then the
first folder of each path is its class; an image beside the class folders has no class said (its
labels are 0), and where no image lies in a folder there are no labels at all.
"""

import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from fromnoise.data.decode import Header, read_header, read_picture
from fromnoise.data.errors import BrokenImage, DataError
from fromnoise.data.listing import (
    Listing,
    Pictures,
    Request,
    existing,
    one_hot,
    stat_stamp,
    train_only,
)
from fromnoise.data.picture import Picture

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ACCEPTED = "accepted: " + ", ".join(EXTENSIONS)


def folder(request: Request) -> Listing:
    """Every image below a folder. Links are followed; hidden files and `__MACOSX` are not."""
    root = existing(request.path, source="folder")
    train_only(request.split, source="folder")
    if not root.is_dir():
        raise DataError(f"data.path: {root} is a file; source folder needs a folder")
    found = dict(_walk(root))
    names = _image_names(found, where=root)

    def look(i: int) -> Header:
        try:
            with open(root / names[i], "rb") as file:
                return read_header(file)
        except OSError as error:
            raise BrokenImage(error.strerror or str(error)) from error

    def read(i: int) -> Picture:
        try:
            data = (root / names[i]).read_bytes()
        except OSError as error:
            raise BrokenImage(error.strerror or str(error)) from error
        return read_picture(data, background=request.background)

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        labels, label_names = folder_labels(names)
        yield Pictures(names, look, read, labels, label_names)

    stamp = [[name, found[name].st_size, found[name].st_mtime_ns] for name in names]
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
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            names = _image_names(members, where=path)

            def content(i: int) -> bytes:
                try:
                    return archive.read(members[names[i]])
                except Exception as error:  # bad CRC, password, unknown compression, bad deflate
                    raise BrokenImage(" ".join(str(error).split())) from error

            def look(i: int) -> Header:
                try:
                    with archive.open(members[names[i]]) as file:
                        return read_header(file)
                except BrokenImage:
                    raise
                except Exception as error:  # as above
                    raise BrokenImage(" ".join(str(error).split())) from error

            def read(i: int) -> Picture:
                return read_picture(content(i), background=request.background)

            labels, label_names = folder_labels(names)
            yield Pictures(names, look, read, labels, label_names)

    return Listing(stat_stamp(path), open_pictures)


def natural_key(name: str) -> list[tuple[list[tuple[int, int, str]], str]]:
    """Sorts "img2" before "img10", folder by folder, whatever the case."""
    return [
        (
            [
                (0, int(part), "") if part.isdecimal() else (1, 0, part.casefold())
                for part in re.split(r"(\d+)", step)
                if part
            ],
            step,
        )
        for step in PurePosixPath(name).parts
    ]


def folder_labels(names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels int8 (N, K) and the K class names of relative file names; see the module."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # what these share, all of them share
    depth = sum(1 for _ in takewhile(lambda steps: steps[0] == steps[1], ends))
    classes = [steps[depth] if len(steps) > depth else "" for steps in folders]
    label_names = tuple(sorted(set(classes) - {""}, key=natural_key))
    if not label_names:
        return None, ()
    number = {name: i for i, name in enumerate(label_names)} | {"": -1}
    return one_hot(np.array([number[name] for name in classes]), len(label_names)), label_names


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative names, with "/" between the steps, and stat of every file that is not hidden."""
    seen: set[str] = set()  # a link to a folder above would never end
    for folder_path, folders, files in os.walk(root, followlinks=True):
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
