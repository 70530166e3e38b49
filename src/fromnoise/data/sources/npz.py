"""Sources `npz`, arrays in .npz and .npy files, and `digits`, which comes with the package.

| type | values | as 0..255 |
|---|---|---|
| uint8 | 0..255 | v |
| uint16 | 0..65535 | v/257 |
| bool | False, True | 0, 255 |
| float16, float32, float64 | all in 0..1, or all in −1..1 with some below 0 | 255·v, 255·(v+1)/2 |

Other types and ranges are errors, because their white is ambiguous. Save 8-bit values in a wider
type with `.astype("uint8")`. With `data.depth` 16 uint16 stays as it is, with `float` floats do.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib import resources
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from fromnoise.data.errors import DataError, unreadable
from fromnoise.data.labels import MAX_CLASSES, one_hot, signs_of, unique_names
from fromnoise.data.levels import Depth
from fromnoise.data.sources import base

IMAGE_KEYS = ("images", "x", "data", "arr_0")
LABEL_KEYS = ("labels", "y", "arr_1")
NAME_KEYS = ("label_names", "classes")
PLAIN = "Save arrays of numbers or texts with numpy.savez; a dict as its values and its keys."
PEAKS = {"uint8": 255, "uint16": 65535, "bool": 1}  # white, by the type of the images


def digits(request: base.SourceRequest) -> base.SourceListing:
    """Open 1,797 real handwritten digits, 8×8 grey, white on black (see `assets/README.md`)."""
    base.require_train_split(request, "digits")
    if request.path is not None:
        raise DataError(
            f"data.path is {request.path}, but source digits comes with the package. "
            "Remove data.path."
        )

    def open_reader() -> base.ImageReader:
        asset = resources.files("fromnoise.data") / "assets" / "digits.npz"
        with asset.open("rb") as file, np.load(file) as arrays:
            images, labels = arrays["images"][..., None], one_hot(arrays["labels"], 10)
        return base.array_reader(images, peak=16, labels=(labels, tuple("0123456789")))

    return base.SourceListing("UCI optical digits, test part", open_reader)


def npz(request: base.SourceRequest) -> base.SourceListing:
    """Open images (N, H, W), (N, H, W, C) or (N, C, H, W) in an .npz or .npy file.

    Keys of an .npz, in any case: `images`, `x`, `data` or `arr_0` for images; `labels`, `y` or
    `arr_1` for labels, if any: class numbers (N,), or (N, K) of 0 and 1, or of −1, 0 (unknown) and
    1, also as floats; `label_names` or `classes` for their names, else the numbers. A fourth
    channel is not alpha.
    """
    path = base.require_path(request, "npz")
    where = f"data.path: {path}"

    def open_reader() -> base.ImageReader:
        # any exception: numpy and zipfile raise nearly every type for wrong headers
        with unreadable(f"{where} cannot be read as arrays", Exception, fix=PLAIN):
            arrays = _load(path)
        images = _first(arrays, IMAGE_KEYS)
        if images is None:
            keys = ", ".join(arrays) or "no arrays"
            raise DataError(f"{where} has {keys}. Name the images {' or '.join(IMAGE_KEYS)}.")
        if images.ndim == 3 and images.shape[2] in (1, 3, 4) and min(images.shape[:2]) > 4:
            raise DataError(
                f"{where}: the images have shape {images.shape}, that of one image (H, W, C). Save "
                "it as (1, H, W, C)."
            )
        images = base.channels_last(images, where=where)
        if images.size == 0:
            raise DataError(f"{where} has no images: its shape is {images.shape}. Add some.")
        peak, convert = _scale(images, request.depth, where=where)
        labels, label_names = None, ()
        if (stored := _first(arrays, LABEL_KEYS)) is not None:
            labels = read_labels(np.asarray(stored), len(images), where=where)
            names = _first(arrays, NAME_KEYS)
            names = np.arange(labels.shape[1]) if names is None else names
            if names.ndim == 1 and len(names) != labels.shape[1]:
                raise DataError(
                    f"{where} has {len(names)} label names for {labels.shape[1]} labels. "
                    "Save one name per label."
                )
            label_names = read_names(names, where=where)
        return base.array_reader(images, peak=peak, convert=convert, labels=(labels, label_names))

    return base.SourceListing(base.stat_stamp(path), open_reader)


def read_names(stored: np.ndarray, *, where: str) -> tuple[str, ...]:
    """Convert label names (K,): text, UTF-8 bytes, or whole numbers."""
    if stored.ndim != 1 or stored.dtype.kind not in "USiu" or stored.nbytes > base.SMALL:
        raise DataError(
            f"{where}: the label names have type {stored.dtype} and shape {stored.shape}. Save a "
            "list of texts or of whole numbers."
        )
    names = np.asarray(stored)
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "surrogateescape")
    return unique_names(map(str, names), where=f"{where}: the list of label names")


def read_labels(stored: np.ndarray, count: int, *, where: str) -> np.ndarray:
    """Convert class numbers (N,) or (N, 1), or signs (N, K), to int8 (N, K) of +1, −1 and 0."""
    problem = f"{where}: the labels have type {stored.dtype} and shape {stored.shape}"
    fits = stored.ndim in (1, 2) and len(stored) == count and stored.size > 0
    whole = fits and (stored.dtype.kind in "biu" or (stored.dtype.kind == "f" and _whole(stored)))
    if not whole:
        raise DataError(
            f"{problem}. Save {count} class numbers, or ({count}, K) of 0 and 1, or of -1, 0 and 1."
        )
    low, high = int(stored.min()), int(stored.max())
    problem += f" and values {low}..{high}"
    if stored.ndim == 1 or (stored.shape[1] == 1 and high > 1):
        if low < 0 or high >= MAX_CLASSES:
            raise DataError(f"{problem}. Save {count} class numbers in 0..{MAX_CLASSES - 1}.")
        return signs_of(stored.reshape(-1))
    if low < -1 or high > 1:
        raise DataError(f"{problem}. Save {count} rows of 0 and 1, or of -1, 0 and 1.")
    return signs_of(stored)


def _whole(values: np.ndarray) -> bool:
    """Return whether all floats are whole numbers, as those of one-hot labels often are."""
    return bool((np.isfinite(values) & (values == np.rint(values))).all())


def _scale(
    images: np.ndarray, depth: Depth, *, where: str
) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """Return the value of white, and a function that maps black to 0, unless floats stay."""
    if peak := PEAKS.get(images.dtype.name):
        return peak, np.asarray
    if images.dtype.kind != "f":
        raise DataError(
            f"{where}: the images have type {images.dtype}. Save uint8, uint16, bool or float."
        )
    if depth == "float":
        return 1, lambda image: image.astype(np.float32)
    # Image by image, so that the whole file is never in memory.
    low = float(np.min([image.min() for image in images]))
    high = float(np.max([image.max() for image in images]))
    if low >= 0 and high <= 1:
        return 1, lambda image: image.astype(np.float32)
    if low >= -1 and high <= 1:
        return 1, lambda image: (image.astype(np.float32) + 1) / 2
    raise DataError(
        f"{where}: the float images have values {low:g}..{high:g}. Save 0..1 or -1..1, or uint8 "
        "for 0..255, or set data.depth=float and data.range."
    )


def _first(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    lower = {name.lower(): array for name, array in arrays.items()}
    return next((lower[key] for key in keys if key in lower), None)


def _load(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays from disk, by name. An .npz is unpacked: it may not fit in memory."""
    if path.suffix.lower() == ".npy":
        return {IMAGE_KEYS[0]: np.load(path, mmap_mode="r")}
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name.lower() in IMAGE_KEYS + LABEL_KEYS + NAME_KEYS:
                with archive.open(info) as file:
                    arrays[name] = _unpack(file, name, info.file_size)
        return arrays or dict.fromkeys(archive.namelist(), np.empty(0))


def _unpack(file: IO[bytes], name: str, size: int) -> np.ndarray:
    """Map an .npy file from a temporary file, which ends with the array. Raises ValueError.

    size: in bytes. It is compared with the header before anything is unpacked.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    shape, fortran_order, dtype = (read or np.lib.format.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise ValueError(f"{name} contains Python objects")
    values = prod(shape) * dtype.itemsize
    if size != file.tell() + values:
        raise ValueError(f"{name} has {size:,} bytes instead of {file.tell() + values:,}")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if values > free:
        raise OSError(f"{name} takes {values:,} bytes, {tempfile.gettempdir()} has {free:,}")
    if not values:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(file, unpacked)
        unpacked.flush()
        order = "F" if fortran_order else "C"
        return np.memmap(unpacked, dtype, "r", shape=shape, order=order)
