"""The contract of a source: one kind of data set, such as a folder of images or an idx file.

A source is a function `SourceRequest -> SourceListing`. It decodes no images: it
checks the path and the split, and may read small metadata files. The listing then opens an
`ImageReader` only if the images are not in the cache yet. A source promises:

- `SourceListing.stamp` changes whenever the content changes: an equal stamp reuses the cache.
- `ImageReader` is thread-safe, returns images in a fixed order, and raises `BrokenImage` for an
  image that cannot be read. It never resizes: the caller does.
- Labels are int8 (N, K) with +1 present, −1 absent and 0 unknown, or None.
- Every other problem is a `DataError` of one line.

To add a source, see CONTRIBUTING.md. `digits` in `npz.py` is the shortest example. `array_reader`
and `file_reader` build the reader for arrays and for image files.
"""

import os
from collections import deque
from collections.abc import Callable, Container, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image

from fromnoise.data.decoding import decode
from fromnoise.data.errors import BrokenImage, DataError, NoSplit, NotAvailable
from fromnoise.data.levels import Depth
from fromnoise.progress import printable

T = TypeVar("T")
Progress = Callable[[int, int], None]  # (done, total)
Labels = tuple[np.ndarray | None, tuple[str, ...]]  # of `ImageReader`, and their names
STORED = "arrays"  # the folder of the cache for images from memory
SMALL = 2**24  # bytes, of a file that needs no check before it is read
_CHUNK = 8  # items per task: one by one, the overhead exceeds the decoding of a small image


@dataclass(frozen=True)
class SourceRequest:
    """The data that a source is to open, from the recipe or the arguments of `open_images`."""

    path: Path | None
    split: str = "train"
    background: decode.RGB = (255, 255, 255)  # for transparent images
    cache: Path = Path()  # without a path, downloads go to a folder below it
    download: bool = True
    only: Sequence[str] | None = None  # names of files in a folder; None for all
    depth: Depth = 8  # float: floats of any range, as they are


@dataclass(frozen=True)
class ImageReader:
    """The images of an opened source, by index. Both functions may run in many threads."""

    names: Sequence[str]
    read_header: Callable[[int], decode.Header]  # raises BrokenImage
    read_image: Callable[[int], decode.Picture]  # raises BrokenImage
    labels: np.ndarray | None = None  # int8 (N, K): +1, −1, 0
    label_names: tuple[str, ...] = ()
    labels_from: str = ""  # "labels.json", "sub-folders"; "" if the source has one place only
    notes: tuple[str, ...] = ()  # one line each, for the log: what was left out, and why
    uniform: bool = False  # all headers are equal
    close: Callable[[], None] = lambda: None  # closes the files that the source holds open
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # name -> `Picture.remarks`


@dataclass(frozen=True)
class SourceListing:
    """A source that was checked but not decoded."""

    stamp: object  # names, sizes, times, …: anything that JSON can hold
    open: Callable[[], ImageReader]
    notes: tuple[str, ...] = ()  # one line each: what is left out now, also if images are cached


def array_reader(
    images: np.ndarray,
    *,
    peak: float = 255,
    labels: Labels = (None, ()),
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> ImageReader:
    """Return a reader of an array (N, h, w, C), whose values are 0..peak after `convert`."""
    count, height, width, channels = images.shape
    deep = images.dtype.itemsize > 1
    header = decode.Header(height, width, channels, mode=f"{images.dtype} array", deep=deep)
    return ImageReader(
        names=[f"image {i}" for i in range(count)],
        read_header=lambda i: header,
        read_image=lambda i: decode.Picture(convert(images[i]), peak),
        labels=labels[0],
        label_names=labels[1],
        uniform=True,
    )


def file_reader(
    names: Sequence[str],
    open_file: Callable[[str], IO[bytes]],
    *,
    found: Container[str],
    missing: str,
    background: decode.RGB,
    depth: Depth = 8,
    labels: Labels,
    labels_from: str = "",
    notes: tuple[str, ...] = (),
) -> ImageReader:
    """Return a reader of image files. Any exception of `open_file` makes the image broken.

    found: the names that exist. missing: why the others are broken.
    """

    remarks: dict[str, tuple[str, ...]] = {}

    def opened(i: int) -> IO[bytes]:
        if names[i] not in found:
            raise BrokenImage(missing)
        return open_file(names[i])

    # also the errors of a zip: wrong CRC, password, unknown compression, …
    @decode.broken_if_it_fails()
    def header(i: int) -> decode.Header:
        with opened(i) as file:
            return decode.read_header(file)

    @decode.broken_if_it_fails()
    def image(i: int) -> decode.Picture:
        with opened(i) as file:
            content = file.read(SMALL)
            if len(content) == SMALL:  # is it an image at all?
                file.seek(0)
                decode.read_header(file)
                file.seek(0)
                content = file.read()
        picture = decode.read_picture(content, background=background, depth=depth)
        if picture.remarks:
            remarks[printable(names[i])] = tuple(map(printable, picture.remarks))
        return picture

    return ImageReader(names, header, image, *labels, labels_from, notes, remarks=remarks)


def read_each(
    reader: ImageReader, read: Callable[[int], T], progress: Progress | None = None
) -> Generator[T | str, None, None]:
    """Yield read(i) of every image, or the line that explains why it is broken."""

    def result(i: int) -> T | str:
        try:
            return read(i)
        except BrokenImage as error:
            return printable(f"{reader.names[i]}: {error}")

    total = len(reader.names)
    for done, each in enumerate(map_in_order(result, total), start=1):
        yield each
        if progress is not None:
            progress(done, total)


def map_in_order(function: Callable[[int], T], count: int) -> Generator[T, None, None]:
    """Yield function(0), …, function(count - 1), computed in up to 8 threads.

    At most 2 chunks of results per thread are held in memory, for any `count`.
    """
    workers = min(8, os.cpu_count() or 1)

    def chunk(start: int) -> list[T]:
        return [function(i) for i in range(start, min(start + _CHUNK, count))]

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        tasks = (pool.submit(chunk, start) for start in range(0, count, _CHUNK))
        waiting: deque[Future[list[T]]] = deque(islice(tasks, 2 * workers))
        try:
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(islice(tasks, 1))
        finally:
            for task in waiting:
                task.cancel()


def channels_last(images: np.ndarray, *, where: str) -> np.ndarray:
    """Return a view (N, h, w, C) of NHW, NHWC or NCHW. The shorter of axes 1 and 3 is C.

    Raises `DataError` for other shapes, also for (H, W, C, N).
    """
    last = images if images.ndim == 4 else images[..., None] if images.ndim == 3 else None
    if images.ndim == 4 and images.shape[3] > images.shape[1]:
        last = images.transpose(0, 2, 3, 1)
    height, width, channels = (0, 0, 0) if last is None else last.shape[1:]
    # an axis of 1 or 3 between longer ones is C of (H, W, C, N), not a side
    stacked = images.ndim == 4 and images.shape[2] in (1, 3) and height != width
    if last is None or stacked or 0 < min(height, width) <= channels:
        raise DataError(
            f"{where}: the images have shape {images.shape}. Save them as (N, H, W), (N, H, W, C) "
            "or (N, C, H, W), with fewer channels than pixels per side."
        )
    if height * width > largest_image():
        raise DataError(
            f"{where}: the images have {height}x{width} pixels, more than an image file may have. "
            "Save smaller ones."
        )
    return last


def largest_image() -> int:
    """Return the pixels of the largest image that Pillow decodes: more would be an attack."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**31)


def stat_stamp(path: Path) -> list[object]:
    """Return the name, the size in bytes and the modification time (ns) of a file."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def existing_path(path: str | Path) -> Path:
    """Return the absolute path of a file or folder. Raises `DataError` if there is none."""
    path = Path(path).expanduser().absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # a recipe and a log could not name it
        raise DataError(
            f"data.path: {path} is not UTF-8. Rename it, or give a link to it."
        ) from error
    if not path.exists() and path.parent.name == STORED:
        raise DataError(
            f"data.path: {path} was written for images from memory, and is no longer in the cache. "
            "Give them again in Python: fromnoise.resume(RUN, data=…)."
        )
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist. Check the path.")
    if not (path.is_file() or path.is_dir()):  # a pipe or a device may never end
        raise DataError(f"data.path: {path} is neither a file nor a folder. Give one of them.")
    return path


def require_path(
    request: SourceRequest, source: str, *, splits: bool = False, folder: bool = False
) -> Path:
    """Return the absolute path. Raises `DataError` if there is none.

    splits: whether the source has other splits than "train". folder: whether it must be a folder.
    """
    if not splits:
        require_train_split(request, source)
    if (path := request.path) is None:
        raise NotAvailable(
            f"data.path is missing, but source {source} needs a path. Set it, or give --data PATH."
        )
    path = existing_path(path)
    if folder and not path.is_dir():
        raise DataError(f"data.path: {path} is a file. Source {source} needs a folder.")
    return path


def require_train_split(request: SourceRequest, source: str) -> None:
    """Raise `DataError` for any split but "train". For sources that have no splits."""
    if request.split != "train":
        raise NoSplit(
            f"data.split is {request.split!r}, but source {source} has no splits. Leave it at "
            "'train' and set data.path to the other images."
        )
