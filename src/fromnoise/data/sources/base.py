"""The nouns between a source and the cache: what was asked, what is there, and how to read it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fromnoise.data.decoding.decode import Header
from fromnoise.data.decoding.transforms import RGB, Picture
from fromnoise.data.errors import DataError, NotHere


@dataclass(frozen=True)
class Request:
    """What a source is asked for."""

    path: Path | None
    split: str = "train"
    background: RGB = (255, 255, 255)
    cache: Path = Path()  # downloads go below it when there is no path
    download: bool = True
    only: Sequence[str] | None = None  # names of files in a folder; None for all


@dataclass(frozen=True)
class Pictures:
    """The images of an opened source, by position. `look` and `read` may run in many threads."""

    names: Sequence[str]
    look: Callable[[int], Header]  # raises BrokenImage
    read: Callable[[int], Picture]  # raises BrokenImage
    labels: np.ndarray | None = None  # int8 (N, K): +1, -1, 0
    label_names: tuple[str, ...] = ()
    labels_from: str = ""  # "labels.json", "sub-folders"; "" where a source has one place only
    uniform: bool = False  # every header is the first one


@dataclass(frozen=True)
class Listing:
    """A source that was looked at from outside, with `stat` only.

    While `stamp` (what was seen: names, sizes, times) stays the same, so does the content, and
    the cache is used without ever calling `open`.
    """

    stamp: object  # anything that JSON can hold
    open: Callable[[], AbstractContextManager[Pictures]]


def array_pictures(
    images: np.ndarray,
    *,
    peak: float = 255,
    labels: np.ndarray | None = None,
    label_names: tuple[str, ...] = (),
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Pictures:
    """Pictures of an array (N, h, w, C) with values 0..peak after `convert`, image by image."""
    count, height, width, channels = images.shape
    deep = images.dtype.itemsize > 1
    header = Header(height, width, channels, mode=f"{images.dtype} array", deep=deep)
    return Pictures(
        names=[f"image {i}" for i in range(count)],
        look=lambda i: header,
        read=lambda i: Picture(convert(images[i]), peak),
        labels=labels,
        label_names=label_names,
        uniform=True,
    )


def channels_last(images: np.ndarray, *, where: str) -> np.ndarray:
    """A view (N, h, w, C) of NHW, NHWC or NCHW. Of axes 1 and 3 the shorter is the channels."""
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4 or images.shape[1] == images.shape[3]:
        raise DataError(
            f"{where}: images of shape {images.shape}; allowed: (N, H, W), (N, H, W, C) or "
            "(N, C, H, W) with fewer channels than pixels a side"
        )
    return images if images.shape[3] < images.shape[1] else images.transpose(0, 2, 3, 1)


def stat_stamp(path: Path) -> list[object]:
    """Name, size in bytes and time of change (ns) of one file."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def existing(path: Path | None, *, source: str) -> Path:
    """The absolute path, or a `DataError` where there is none."""
    if path is None:
        raise NotHere(f"data.path is missing: source {source} needs a path (or --data PATH)")
    path = path.expanduser().absolute()
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist")
    return path


def train_only(split: str, *, source: str) -> None:
    """Refuses a split of a source that has none."""
    if split != "train":
        raise DataError(
            f"data.split is {split!r}, but source {source} has no splits; leave it at 'train', "
            "and set data.path to the other images"
        )
