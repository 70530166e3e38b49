"""Images from memory, an array or a torch `Dataset`, as an npz in the cache."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fromnoise.checkpoints import atomic_file
from fromnoise.data.dataset import ROOM, default_cache, writing_to
from fromnoise.data.errors import DataError
from fromnoise.data.sources.base import STORED

USE = "Give (N, H, W), (N, H, W, C) or (N, C, H, W) of uint8, uint16 or float"


def is_in_memory(data: object) -> bool:
    """Return whether these are images rather than the path of some."""
    return data is not None and not isinstance(data, str | Path)


def store_images(data: Any) -> Path:
    """Write images into the cache, as an npz that is named by their content, and return its path.

    data: an array, or a map-style torch `Dataset` of images or of (image, label): arrays, tensors
    or Pillow images of one size. Its `classes`, if it has any, are the names of the labels. An
    existing file stays. Raises `DataError` for anything else.
    """
    arrays = {"images": data} if isinstance(data, np.ndarray) else _collect(data)
    images = arrays["images"]
    if images.ndim not in (3, 4) or images.dtype.kind not in "uf" or not images.size:
        raise DataError(f"data: an array of {images.dtype} {images.shape}. {USE}.")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DataError("data: the array has NaN or infinite values. Remove them.")
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    file = default_cache().absolute() / STORED / f"{digest.hexdigest()}.npz"
    if not file.is_file():
        size = sum(array.nbytes for array in arrays.values())
        with (
            writing_to(file.parent),
            atomic_file(file, needed=size, room=ROOM) as writing,
            writing.open("wb") as opened,
        ):
            np.savez(opened, allow_pickle=False, **arrays)
    return file


def _collect(data: Any) -> dict[str, np.ndarray]:
    """Return the images of a data set, with its labels if it has any."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        kind = type(data).__name__
        raise DataError(f"data: a {kind} is no array and no map-style torch Dataset. {USE}.")
    items = [data[i] for i in range(len(data))]
    if not items:
        raise DataError("data: the data set is empty. Add images.")
    labelled = isinstance(items[0], tuple | list) and len(items[0]) == 2
    images = [_array(item[0] if labelled else item) for item in items]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise DataError(f"data: images of {one} and of {other}. Bring them to one size.")
    arrays = {"images": np.stack(images)}
    if labelled:
        arrays["labels"] = np.stack([np.asarray(item[1]) for item in items])
        names: Sequence[Any] = getattr(data, "classes", None) or ()
        if names and arrays["labels"].ndim == 1 and len(names) > arrays["labels"].max():
            arrays["label_names"] = np.array(list(map(str, names)))
    return arrays


def _array(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image) and image.mode not in ("L", "RGB", "I;16", "F"):
        image = image.convert("RGB")
    return np.asarray(image)  # of a tensor too
