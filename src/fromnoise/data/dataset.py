"""`ImageSet`, images of one size with their labels; `open_images`, from a source to one."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from fromnoise.data.cache import cache_key, default_cache, load_entry, write_entry
from fromnoise.data.decoding.decode import ACCEPTED, Header
from fromnoise.data.decoding.parallel import in_order
from fromnoise.data.decoding.transforms import RGB, Fit, fit_picture, to_channels
from fromnoise.data.errors import BrokenImage, DataError, SeveralSizes, first_few
from fromnoise.data.sources import find_source
from fromnoise.data.sources.base import Listing, Pictures, Request


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class ImageSet:
    """Images of one size, with labels or without."""

    images: np.ndarray  # uint8 (N, C, H, W), read-only, mapped from the cache
    labels: np.ndarray | None  # int8 (N, K): +1 present, -1 absent, 0 not said; None: no labels
    label_names: tuple[str, ...]  # K names, () without labels
    fingerprint: str  # SHA-256 (hex) of images, labels and names: equal exactly where they are
    skipped: tuple[str, ...]  # "folder/name.png: reason" of every file that could not be read
    source: str  # a key of SOURCES

    def __len__(self) -> int:
        return len(self.images)


Progress = Callable[[int, int], None]  # (done, of how many)


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
    """Every image of a source as uint8, decoded the first time and mapped from the cache after.

    Arguments:
        source: a key of `SOURCES`.
        path: the folder or file; for torchvision's sets where they are or go, by default the
            cache; none for `digits`.
        split: "train", or "test" where the source has one.
        only: of a folder, the names of the files that are meant; None for all.
        size: (H, W) in pixels; None for the size that all images share.
        channels: 1, 3, or the N of an array; None for 1 if every image is grey, else 3 (or N).
        fit: how an image comes to the size; see `fit_picture`.
        background: RGB in 0..255, behind transparent pixels and around padded images.
        strict: broken files are an error; else they are skipped and listed.
        cache: its folder; see `default_cache`.
        download: whether a source of torchvision's may be fetched.
        progress: called with (images done, images) while decoding.

    Raises `DataError`; `SeveralSizes` where they share none and `size` is None.
    """
    _check_options(size, channels, fit, background)
    background = (background[0], background[1], background[2])  # YAML gives lists
    cache = Path(cache).expanduser() if cache is not None else default_cache()
    path = Path(path) if path is not None else None
    request = Request(path, split, background, cache, download, only)
    listing = find_source(source)(request)
    where = str(path.expanduser().resolve()) if path is not None else None
    key = cache_key([source, where, split, size, channels, fit, background, listing.stamp])
    entry = cache.absolute() / key
    found = load_entry(entry)
    if found is None:
        _decode(listing, entry, size, channels, fit, background, progress, where or source)
        found = load_entry(entry)
    if found is None:
        raise DataError(f"the cache entry {entry} vanished while it was opened; try again")
    images = ImageSet(**found, source=source)
    if strict and images.skipped:
        raise DataError(
            f"{where or source}: {len(images.skipped)} of {len(images) + len(images.skipped)} "
            f"images cannot be read: {first_few(images.skipped)}; mend or remove them, or leave "
            "out strict"
        )
    return images


def _decode(
    listing: Listing,
    entry: Path,
    size: tuple[int, int] | None,
    channels: int | None,
    fit: Fit,
    background: RGB,
    progress: Progress | None,
    where: str,
) -> None:
    with listing.open() as pictures:
        total, broken = len(pictures.names), []
        if size is None or channels is None:
            size, channels = _detect(pictures, size, channels, background)

        def prepare(i: int) -> np.ndarray | str:
            try:
                picture = pictures.read(i)
            except BrokenImage as error:
                return f"{pictures.names[i]}: {error}"
            return fit_picture(to_channels(picture, channels), size, fit=fit, background=background)

        def results() -> Generator[np.ndarray | str, None, None]:
            for done, result in enumerate(in_order(prepare, total), start=1):
                if isinstance(result, str):
                    broken.append(result)
                yield result
                if progress is not None:
                    progress(done, total)

        with closing(results()) as stream:  # so that no thread outlives an open archive
            count = write_entry(
                entry,
                stream,
                at_most=total,
                labels=pictures.labels,
                label_names=pictures.label_names,
            )
    if not count:
        raise DataError(
            f"data.path: none of the {total} images of {where} can be read: "
            f"{first_few(broken)}; {ACCEPTED}"
        )


def _detect(
    pictures: Pictures, size: tuple[int, int] | None, channels: int | None, background: RGB
) -> tuple[tuple[int, int], int]:
    """The size and channels that all images share, from their headers."""

    def look(i: int) -> Header | None:
        try:
            return pictures.look(i)
        except BrokenImage:  # decoding will meet it again, and name it
            return None

    count = 1 if pictures.uniform else len(pictures.names)
    looked = enumerate(in_order(look, count))
    headers = [(pictures.names[i], header) for i, header in looked if header is not None]
    if not headers:
        return size or (1, 1), channels or 1  # nothing will be decoded
    sizes = Counter((header.height, header.width) for _, header in headers)
    usual, times = sizes.most_common(1)[0]
    if size is None and len(sizes) > 1:
        other = next((n, h.height, h.width) for n, h in headers if (h.height, h.width) != usual)
        raise SeveralSizes(
            f"the images have {len(sizes)} sizes, most often {usual[0]}×{usual[1]} (H×W; {times} "
            f"of {len(headers)}), but {other[0]} is {other[1]}×{other[2]}",
            way_out="set data.size, for example data.size=64",
        )
    return size or usual, channels or max(h.channels_on(background) for _, h in headers)


def _check_options(
    size: tuple[int, int] | None, channels: int | None, fit: str, background: RGB
) -> None:
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise DataError(f"data.size is {size}; allowed: height and width, each at least 1")
    if channels is not None and channels < 1:
        raise DataError(f"data.channels is {channels}; allowed: 1, 3, or the number in an array")
    if fit not in get_args(Fit):
        raise DataError(f"data.fit is {fit!r}; allowed: {', '.join(get_args(Fit))}")
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise DataError(f"data.background is {background}; allowed: R, G, B, each in 0..255")
