"""Source `npz`: arrays in .npz and .npy files.

| images | values | become |
|---|---|---|
| uint8 | 0..255 | themselves |
| uint16 | 0..65535 | v/257 |
| bool | False, True | 0, 255 |
| float16, float32, float64 | all in 0..1, or all in -1..1 with some below 0 | 255·v, 255·(v+1)/2 |

Anything else is refused, because its white is a guess: 8-bit values in a wider type are saved
with `.astype("uint8")`.
"""

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels.files import unique
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import (
    Listing,
    Pictures,
    Request,
    array_pictures,
    channels_last,
    existing,
    stat_stamp,
    train_only,
)

IMAGE_KEYS = ("images", "x", "data", "arr_0")
LABEL_KEYS = ("labels", "y", "arr_1")
NAME_KEYS = ("label_names", "classes")
_MOST_CLASSES = 65_536


def npz(request: Request) -> Listing:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) of an .npz or .npy file.

    Keys of an .npz: images `images`, `x`, `data` or `arr_0`; labels, which may be absent,
    `labels`, `y` or `arr_1`: class numbers (N,), or (N, K) of 0 and 1 or of -1, 0 (not said) and
    1; their names `label_names` or `classes`, by default the numbers. Any case. Four channels
    are four channels: no alpha is taken out of arrays.
    """
    path = existing(request.path, source="npz")
    train_only(request.split, source="npz")

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        try:
            arrays = _load(path)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"data.path: {path} cannot be read as arrays: {error}") from error
        yield _pictures(arrays, path)

    return Listing(stat_stamp(path), open_pictures)


def _pictures(arrays: Mapping[str, np.ndarray], path: Path) -> Pictures:
    where = f"data.path: {path}"
    images = _first(arrays, IMAGE_KEYS)
    if images is None:
        keys = ", ".join(arrays) or "nothing"
        raise DataError(f"{where} holds {keys}; images need the key {' or '.join(IMAGE_KEYS)}")
    images = channels_last(images, where=where)
    if images.size == 0:
        raise DataError(f"{where}: no images, shape {images.shape}")
    peak, convert = _scale(images, where=where)
    given = _first(arrays, LABEL_KEYS)
    if given is None:
        return array_pictures(images, peak=peak, convert=convert)
    labels = read_labels(np.asarray(given), len(images), where=where)
    names = _first(arrays, NAME_KEYS)
    numbers = [str(i) for i in range(labels.shape[1])]
    label_names = tuple(numbers) if names is None else read_names(np.asarray(names), where=where)
    if len(label_names) != labels.shape[1]:
        raise DataError(f"{where}: {len(label_names)} label names for {labels.shape[1]} labels")
    return array_pictures(
        images, peak=peak, convert=convert, labels=labels, label_names=label_names
    )


def read_names(given: np.ndarray, *, where: str) -> tuple[str, ...]:
    """Names of labels, (K,): text, UTF-8 bytes, or whole numbers."""
    if given.ndim != 1 or given.dtype.kind not in "USiu":
        raise DataError(
            f"{where}: label names of type {given.dtype} and shape {given.shape}; allowed: a list "
            "of texts or of whole numbers"
        )
    names = np.char.decode(given, "utf-8") if given.dtype.kind == "S" else given
    return unique(map(str, names), where=f"{where}: the list of label names")


def read_labels(given: np.ndarray, count: int, *, where: str) -> np.ndarray:
    """Class numbers (N,) or (N, 1), or signs (N, K), as labels int8 (N, K) of +1, -1 and 0."""
    allowed = f"{where}: labels of type {given.dtype} and shape {given.shape}; allowed: {count} "
    fits = given.ndim in (1, 2) and len(given) == count and given.size > 0
    if not fits or given.dtype.kind not in "biu":
        raise DataError(allowed + f"class numbers, or ({count}, K) of 0 and 1, or of -1, 0 and 1")
    low, high = int(given.min()), int(given.max())
    if given.ndim == 1 or (given.shape[1] == 1 and high > 1):
        if low < 0 or high >= _MOST_CLASSES:
            raise DataError(allowed + f"class numbers in 0..{_MOST_CLASSES - 1}, not {low}..{high}")
        return one_hot(given.reshape(-1).astype(np.int64), high + 1)
    if low < -1 or high > 1:
        raise DataError(allowed + f"rows of 0 and 1, or of -1, 0 and 1, not of {low}..{high}")
    signs = given.astype(np.int8)
    return signs if low < 0 else signs * 2 - 1  # without any -1, 0 says "absent"


def _scale(images: np.ndarray, *, where: str) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """White, and what to do with the values first so that black is 0."""
    if images.dtype == np.uint8:
        return 255, np.asarray
    if images.dtype == np.uint16:
        return 65535, np.asarray
    if images.dtype == np.bool_:
        return 1, lambda image: image.astype(np.float32)
    if images.dtype.kind != "f":
        raise DataError(
            f"{where}: images of type {images.dtype}; allowed: uint8, uint16, bool, float"
        )
    # Image by image, so that the file passes through memory and does not stay in it.
    low = float(np.min([image.min() for image in images]))
    high = float(np.max([image.max() for image in images]))
    if low >= 0 and high <= 1:
        return 1, lambda image: image.astype(np.float32)
    if low >= -1 and high <= 1:
        return 1, lambda image: (image.astype(np.float32) + 1) / 2
    raise DataError(
        f"{where}: float images with values {low:g}..{high:g}; allowed: 0..1 or -1..1 "
        "(for 0..255 save uint8)"
    )


def _first(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    lower = {name.lower(): array for name, array in arrays.items()}
    return next((lower[key] for key in keys if key in lower), None)


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name, mapped from disk: an .npz is unpacked into files that have no name."""
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as file:
            return {IMAGE_KEYS[0]: _map(file)}
    arrays = {}
    wanted = IMAGE_KEYS + LABEL_KEYS + NAME_KEYS
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if (name := member.removesuffix(".npy")).lower() in wanted:
                with tempfile.TemporaryFile() as file:
                    with archive.open(member) as packed:
                        shutil.copyfileobj(packed, file, 1 << 20)
                    file.seek(0)
                    arrays[name] = _map(file)
        return arrays or dict.fromkeys(archive.namelist(), np.empty(0))


def _map(file: IO[bytes]) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f".npy format {version}; allowed: (1, 0) and (2, 0)")
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects; allowed: numbers and fixed-length strings")
    if 0 in shape or shape == ():
        return np.empty(shape, dtype)
    order = "F" if fortran else "C"
    return np.memmap(file, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order=order)
