"""Open a source as an `ImageSet`: images of one size, with their labels, from the cache."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fromnoise.data.cache import ImageSet, cache_key, default_cache, load_entry, write_entry
from fromnoise.data.decoding.transforms import RGB, Fit, fit_picture, to_channels
from fromnoise.data.errors import DataError, SeveralSizes, abbreviate
from fromnoise.data.sources import get_source
from fromnoise.data.sources.base import ImageReader, Progress, SourceRequest, read_each
from fromnoise.progress import progress_bar

logger = logging.getLogger("fromnoise")


def open_images(
    source: str,
    path: str | Path | None = None,
    *,
    split: str = "train",
    only: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    fit: Fit = "crop",
    background: RGB = (255, 255, 255),
    strict: bool = False,
    cache: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """Open every image of a source as uint8. The first time they are decoded into the cache.

    Arguments:
        source: a key of `SOURCES`.
        path: the folder or file. For torchvision's data sets: where they are, or will be
            downloaded, by default in the cache. None for `digits`.
        split: "train", or "test" if the source has it.
        only: the names of the files of a folder to open; None for all.
        size: (H, W) in pixels; None for the common size of all images.
        channels: 1, 3, or the N of an array; None for 1 if every image is grey, else 3 (or N).
        fit: how to resize an image to the size; see `fit_picture`.
        background: RGB in 0..255, behind transparent pixels and around padded images.
        strict: raise an error for broken files. Otherwise they are skipped and listed.
        cache: the folder of the cache; see `default_cache`.
        download: allow the download of torchvision's data sets.
        progress: called with (images done, images) while decoding.

    Raises `DataError`; `SeveralSizes` if the images have several sizes and `size` is None.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise DataError(f"data.size is {size}. Give a height and a width of at least 1.")
    if channels is not None and channels < 1:
        raise DataError(f"data.channels is {channels}. Give 1, 3, or the number in an array.")
    if fit not in get_args(Fit):
        raise DataError(f"data.fit is {fit!r}. Choose one of {', '.join(get_args(Fit))}.")
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise DataError(f"data.background is {background}. Give R, G, B, each in 0..255.")
    background = (background[0], background[1], background[2])  # YAML gives lists
    cache = Path(cache).expanduser() if cache is not None else default_cache()
    path = Path(path) if path is not None else None
    listing = get_source(source)(SourceRequest(path, split, background, cache, download, only))
    where = str(path.expanduser().resolve()) if path is not None else None
    key = cache_key([source, where, split, size, channels, fit, background, listing.stamp])
    entry = cache.absolute() / key
    images = load_entry(entry, source)
    if images is None:
        with closing(listing.open()) as reader:
            depth, shape = _detect(reader, channels, size, background)

            def prepare(i: int) -> np.ndarray:
                picture = to_channels(reader.read_image(i), depth)
                return fit_picture(picture, shape, fit=fit, background=background)

            # closing ends the threads before the archive closes
            with closing(read_each(reader, prepare, progress)) as results:
                write_entry(entry, results, reader, where=where or source)
        images = load_entry(entry, source)
    if images is None:
        raise DataError(f"the cache entry {entry} was deleted while it was opened. Try again.")
    if strict and images.skipped:
        raise DataError(
            f"{where or source}: {len(images.skipped)} of {len(images) + len(images.skipped)} "
            f"images cannot be read: {abbreviate(images.skipped)}. Repair or remove them, or set "
            "data.strict to false."
        )
    return images


def open_with_log(source: str, path: str | Path | None, **options: Any) -> ImageSet:
    """Open images as `open_images` does, with a progress bar, and log what was read and skipped."""
    with progress_bar("decoding") as progress:
        images = open_images(source, path, progress=progress, **options)
    logger.info("%s: %d images, %d channels, %dx%d", path or source, *images.images.shape)
    for line in images.skipped:
        logger.warning("skipped %s", line)
    if images.skipped:
        logger.warning("skipped %d images of %s", len(images.skipped), path or source)
    return images


def _detect(
    reader: ImageReader, channels: int | None, size: tuple[int, int] | None, background: RGB
) -> tuple[int, tuple[int, int]]:
    """Return the channels and the size for all images: those given, or from their headers."""
    if channels is not None and size is not None:
        return channels, size
    examined = replace(reader, names=reader.names[:1]) if reader.uniform else reader
    named = read_each(examined, lambda i: (reader.names[i], reader.read_header(i)))
    headers = [each for each in named if not isinstance(each, str)]
    if not headers:
        return channels or 1, size or (1, 1)  # all are broken; decoding will report it
    sizes = Counter((header.height, header.width) for _, header in headers)
    common, times = sizes.most_common(1)[0]
    if size is None and len(sizes) > 1:
        other = next((n, h.height, h.width) for n, h in headers if (h.height, h.width) != common)
        raise SeveralSizes(
            f"the images have {len(sizes)} sizes, most often {common[0]}×{common[1]} (H×W; {times} "
            f"of {len(headers)}), but {other[0]} is {other[1]}×{other[2]}"
        )
    return channels or max(h.channels_on(background) for _, h in headers), size or common
