"""Source `idx`: the files of MNIST and its successors, gzipped or not.

http://yann.lecun.com/exdb/mnist: two zero bytes, the type, the number of axes, their lengths
as big-endian 32-bit integers, and the values.
"""

import gzip
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import (
    Listing,
    Pictures,
    Request,
    array_pictures,
    channels_last,
    existing,
    stat_stamp,
)

_IMAGES = re.compile(r"(.*)images[-.]idx\d-ubyte(\.gz)?")
_UBYTE = 8  # the type of all of MNIST's files
SPLITS = {"train": ("train",), "test": ("t10k", "test")}


def idx(request: Request) -> Listing:
    """A folder with `train-images-idx3-ubyte[.gz]` and so on, or one such file.

    The labels lie beside the images, `images` in the name replaced with `labels`; without that
    file there are none.
    """
    path = existing(request.path, source="idx")
    if path.is_file():
        if request.split != "train":
            raise DataError(f"data.split is {request.split!r}, but data.path is one file, {path}")
        return idx_listing(path)
    found = find_images(path, request.split)
    if found is None:
        stems = " or ".join(f"{stem}-images-idx3-ubyte[.gz]" for stem in SPLITS[request.split])
        raise DataError(f"data.path: {path} has no {stems}, the file of split {request.split!r}")
    return idx_listing(found)


def find_images(folder: Path, split: str) -> Path | None:
    """The images of a split directly in a folder; of "x" and "x.gz" the former."""
    if split not in SPLITS:
        raise DataError(f"data.split is {split!r}; allowed: {', '.join(SPLITS)}")
    if not folder.is_dir():
        return None
    found = sorted(
        path
        for path in folder.iterdir()
        if (match := _IMAGES.fullmatch(path.name))
        and any(stem in match[1] for stem in SPLITS[split])
    )
    if len({path.name.removesuffix(".gz") for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"data.path: {folder} has several images of {split!r}: {names}; name one")
    return found[0] if found else None


def has_idx(folder: Path) -> bool:
    """Whether files of that kind lie directly in a folder."""
    return any(_IMAGES.fullmatch(path.name) for path in folder.iterdir())


def idx_listing(images: Path, names: tuple[str, ...] | None = None) -> Listing:
    """One file of images with its labels; classes are named by their numbers unless `names`."""
    labels = _labels_beside(images)

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        pixels = channels_last(_read(images), where=f"data.path: {images}")
        if labels is None:
            yield array_pictures(pixels)
            return
        classes = _read(labels)
        if classes.shape != pixels.shape[:1]:
            raise DataError(
                f"data.path: {images.name} has {len(pixels)} images, "
                f"but {labels} has labels of shape {classes.shape}"
            )
        highest = int(classes.max(initial=0))
        known = names or tuple(str(i) for i in range(max(9, highest) + 1))
        if highest >= len(known):
            raise DataError(
                f"data.path: {labels} has class {highest}; allowed: 0..{len(known) - 1}"
            )
        yield array_pictures(pixels, labels=one_hot(classes, len(known)), label_names=known)

    stamp = [stat_stamp(path) for path in (images, labels) if path is not None]
    return Listing(stamp, open_pictures)


def _labels_beside(images: Path) -> Path | None:
    plain = images.name.removesuffix(".gz")
    stem = plain.replace("images", "labels").replace("idx3", "idx1")
    places = [images.with_name(name) for name in (stem, f"{stem}.gz") if stem != plain]
    return next((path for path in places if path.is_file()), None)


def _read(path: Path) -> np.ndarray:
    """The array of one file, uint8, mapped from disk and not held in memory."""
    try:
        with tempfile.TemporaryFile() if path.suffix == ".gz" else open(path, "rb") as file:
            if path.suffix == ".gz":
                with gzip.open(path) as packed:
                    shutil.copyfileobj(packed, file, 1 << 20)
                file.seek(0)
            zeros, kind, axes = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != _UBYTE:
                raise DataError(f"data.path: {path} is not an idx file of unsigned bytes")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            start = file.tell()
            have = file.seek(0, 2) - start
            if have != prod(shape) or have == 0:
                raise DataError(
                    f"data.path: {path} says shape {shape}, {prod(shape):,} bytes, "
                    f"but has {have:,}; copy it again"
                )
            return np.memmap(file, dtype=np.uint8, mode="r", offset=start, shape=shape)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"data.path: {path} cannot be read as an idx file: {error}") from error
