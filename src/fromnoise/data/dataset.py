"""Open a source as an `ImageSet`: images of one size, with their labels, decoded into a cache.

    <cache>/<key>/images.npy   uint8, uint16 or float32 (N, C, H, W)
                  labels.npy   int8 (N, K), if there are labels
                  meta.json    label names, fingerprint, skipped files; checksums

An entry is written to a temporary folder and then renamed. The key is a hash of the files and the
options, so an entry never changes. You can delete any entry at any time.

A file of an entry whose size or time differs from its record is verified by its SHA-256. A damaged
entry is written again. `verify_entries` verifies every file.
"""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from platformdirs import user_cache_path
from pydantic import BaseModel

from fromnoise.checkpoints import OWN_HASH, DiskFull, atomic_file, sha256
from fromnoise.data.decoding.decode import (
    ACCEPTED,
    RGB,
    Fit,
    check_depth,
    fit_picture,
    to_channels,
    with_white,
)
from fromnoise.data.decoding.remarks import notes_on
from fromnoise.data.errors import DataError, SeveralSizes, abbreviate, reason
from fromnoise.data.levels import BYTES, DEEPEST, DTYPES, NAMES, Depth, Levels
from fromnoise.data.sources import get_source
from fromnoise.data.sources.base import ImageReader, Progress, SourceRequest, read_each
from fromnoise.progress import printable, progress_bar

FORMAT = 4  # increase it if the same files decode to other pixels or labels
META, IMAGES, LABELS = "meta.json", "images.npy", "labels.npy"
_HEADER = 128  # bytes, of an .npy with four axes, which numpy pads to a multiple of 64
_ELSEWHERE = "set the environment variable FROMNOISE_CACHE to another folder."
ROOM = f"Free some space, or {_ELSEWHERE}"
logger = logging.getLogger("fromnoise")


@dataclass(frozen=True, eq=False)  # arrays do not compare to one bool
class ImageSet:
    """Images of one size, with or without labels."""

    images: np.ndarray  # uint8, or of `levels`: (N, C, H, W), read-only, mapped from the cache
    labels: np.ndarray | None  # int8 (N, K): +1 present, −1 absent, 0 unknown; or None
    label_names: tuple[str, ...]  # K names; () without labels
    fingerprint: str  # SHA-256 (hex) of images, labels and label names
    skipped: tuple[str, ...]  # "folder/name.png: reason" for every broken file
    source: str  # a key of SOURCES
    notes: tuple[str, ...] = ()  # one line each: what else was left out, and warnings
    levels: Levels = BYTES

    def __len__(self) -> int:
        return len(self.images)

    def as_bytes(self) -> "ImageSet":
        """Return the images as uint8, in memory; itself for 8 bits."""
        if self.levels.depth == 8:
            return self
        of, images = self.levels, self.levels.to_bytes(self.images)
        fingerprint = cache_key([self.fingerprint, of.depth, of.low, of.high])
        return replace(self, images=images, fingerprint=fingerprint, levels=BYTES)


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
    white: int | None = None,
    depth: Depth = 8,
    range: tuple[float, float] | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """Open every image of a source. The first time they are decoded into the cache.

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
        white: the value of white in images of 16 bits, such as 4095; None for 65535.
        depth: 8 for uint8, to which deeper images are rounded; 16 for uint16 and "float" for
            float32, of files of that depth.
        range: black and white of floats; None for 0 and 1.
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
    if white is not None and not 1 <= white <= DEEPEST:
        raise DataError(f"data.white is {white}. Give the white of 16-bit images, 1 to {DEEPEST}.")
    if depth not in get_args(Depth):
        raise DataError(f"data.depth is {depth!r}. Choose one of 8, 16, float.")
    if range is not None and not (depth == "float" and range[0] < range[1]):
        raise DataError(
            f"data.range is {list(range)}. Give black and white, for data.depth=float only."
        )
    background = (background[0], background[1], background[2])  # YAML gives lists
    levels = Levels.of(depth, white=white, range=range)
    cache = Path(cache).expanduser() if cache is not None else default_cache()
    path = Path(path) if path is not None else None
    request = SourceRequest(path, split, background, cache, download, only, depth)
    listing = get_source(source)(request)
    origin = _origin(source, path)
    key = [source, origin, split, size, channels, fit, background, white, listing.stamp]
    key = cache_key(key if depth == 8 else [*key, depth, levels.low, levels.high])
    entry = cache.absolute() / key
    try:
        images = load_entry(entry, source)
    except DamagedEntry as error:
        logger.warning("%s The images are decoded again.", error)
        images = None
    if images is None:
        with closing(listing.open()) as reader:
            count, shape = _detect(reader, channels, size, background)
            rounded: list[Depth] = []  # of the images that lose bits

            def prepare(i: int) -> np.ndarray:
                picture = check_depth(reader.read_image(i), levels, reader.names[i])
                if picture.depth != depth:
                    rounded.append(picture.depth)
                picture = to_channels(with_white(picture, white), count)
                return fit_picture(picture, shape, fit=fit, background=background, levels=levels)

            # closing ends the threads before the archive closes
            with closing(read_each(reader, prepare, progress)) as results:
                write_entry(
                    entry, results, reader, origin=origin, dtype=levels.dtype, rounded=rounded
                )
        images = load_entry(entry, source)
    if images is None:
        raise DataError(f"the cache entry {entry} was deleted while it was opened. Try again.")
    images = replace(images, notes=(*listing.notes, *images.notes), levels=levels)
    if strict and images.skipped:
        raise DataError(
            f"{origin}: {len(images.skipped)} of {len(images) + len(images.skipped)} "
            f"images cannot be read: {abbreviate(images.skipped)}. Repair or remove them, or set "
            "data.strict to false."
        )
    return images


def open_with_log(source: str, path: str | Path | None, **options: Any) -> ImageSet:
    """Open images as `open_images` does, with a progress bar, and log what was read and skipped."""
    where = printable(str(path or source))
    with progress_bar("decoding") as progress:
        images = open_images(source, path, progress=progress, **options)
    logger.info("%s: %d images, %d channels, %dx%d", where, *images.images.shape)
    for line in images.notes:
        logger.info("%s", line)
    for line in images.skipped:
        logger.warning("skipped %s", line)
    if images.skipped:
        logger.warning("skipped %d images of %s", len(images.skipped), where)
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


def default_cache() -> Path:
    """Return $FROMNOISE_CACHE, else the system's folder for caches, such as ~/.cache/fromnoise.

    On macOS and Windows, a ~/.cache/fromnoise of earlier versions is used while it exists.
    """
    if own := os.environ.get("FROMNOISE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    earlier = (Path(base) if base else Path.home() / ".cache") / "fromnoise"
    return earlier if earlier.is_dir() else user_cache_path("fromnoise", appauthor=False)


def cache_key(inputs: object) -> str:
    """Return the SHA-256 (hex) of `inputs`, anything that JSON can hold, and of the format."""
    return hashlib.sha256(json.dumps([FORMAT, inputs]).encode()).hexdigest()


class DamagedEntry(DataError):
    """An entry of the cache whose files are not those that were written."""


class _File(BaseModel):
    size: int  # bytes
    time: int  # of the last change, ns
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "_File":
        stat = path.stat()
        return cls(size=stat.st_size, time=stat.st_mtime_ns, sha256=sha256(path))


class _Meta(BaseModel):
    """The content of meta.json."""

    origin: str  # the path of the data set, or the name of its source
    fingerprint: str
    shape: tuple[int, int, int, int]
    label_names: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    files: dict[str, _File]

    def write(self, entry: Path) -> None:
        content = self.model_dump(mode="json")
        content |= {OWN_HASH: cache_key(content)}
        (entry / META).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, entry: Path) -> "_Meta":
        """Raise OSError, or ValueError if the file is damaged."""
        content = json.loads((entry / META).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop(OWN_HASH, "") != cache_key(content):
            raise ValueError(f"the SHA-256 of {META} differs")
        return cls.model_validate(content)

    def verify(self, entry: Path, *, all_files: bool) -> None:
        """Raise ValueError for a damaged file; by default, only look at those that changed."""
        for name, file in self.files.items():
            stat = (entry / name).stat()
            if stat.st_size != file.size:
                raise ValueError(f"{name} has {stat.st_size:,} bytes instead of {file.size:,}")
            changed = stat.st_mtime_ns != file.time
            if (changed or all_files) and sha256(entry / name) != file.sha256:
                raise ValueError(f"the SHA-256 of {name} differs")
            if changed:  # it was copied
                with suppress(OSError):
                    os.utime(entry / name, ns=(file.time, file.time))


@contextmanager
def _reading(entry: Path) -> Iterator[None]:
    """Raise DamagedEntry for any error of a file, but `DataError` if it may not be read."""
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"the cache {entry.parent} cannot be read ({reason(error)}). Allow it, or {_ELSEWHERE}"
        ) from error
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise DamagedEntry(f"the cache entry {entry} is damaged ({reason(error)}).") from error


def load_entry(entry: Path, source: str, *, verify: bool = False) -> ImageSet | None:
    """Return the images of a source, mapped read-only, or None if there is no entry.

    verify: also check the files whose size and time are unchanged. Raises DamagedEntry, and
    `DataError` for an entry of another user that cannot be read.
    """
    with _reading(entry):
        if not entry.is_dir():
            return None
        meta = _Meta.read(entry)
        meta.verify(entry, all_files=verify)
        images = np.load(entry / IMAGES, mmap_mode="r")
        names = meta.label_names
        labels = np.load(entry / LABELS, mmap_mode="r") if names else None
        if images.dtype not in map(np.dtype, DTYPES.values()):
            raise ValueError(f"{IMAGES} has type {images.dtype}")
        if images.shape != meta.shape:
            raise ValueError(f"{IMAGES} has shape {images.shape} instead of {meta.shape}")
    return ImageSet(images, labels, names, meta.fingerprint, meta.skipped, source, meta.notes)


def verify_entries(path: str | Path) -> list[str]:
    """Verify the cached images of a data set by their SHA-256, and remove those that are damaged.

    Returns one line for each that is damaged, and a count.
    """
    origin, whole, damaged = _origin("", Path(path)), 0, []
    for file in sorted(default_cache().absolute().glob(f"*/{META}")):
        try:
            with _reading(file.parent):
                if OWN_HASH not in file.read_text("utf-8", "replace"):  # of an earlier version
                    continue
                meta = _Meta.read(file.parent)
            if meta.origin == origin:
                load_entry(file.parent, "", verify=True)
                whole += 1
        except DamagedEntry as error:
            shutil.rmtree(file.parent, ignore_errors=True)
            damaged.append(f"{error} It is removed, and written again when it is needed.")
    return [*damaged, f"cache: {whole} verified, {len(damaged)} damaged"]


class CacheNotWritable(DataError):
    """A folder of the cache that belongs to another user, or is on a disk that is read-only."""


@contextmanager
def writing_to(cache: Path) -> Iterator[None]:
    """Raise any OSError but DiskFull as CacheNotWritable, which names the fix."""
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        raise CacheNotWritable(
            f"the cache {cache} cannot be written ({reason(error)}). Allow it, or {_ELSEWHERE}"
        ) from error


def _origin(source: str, path: Path | None) -> str:
    return source if path is None else str(path.expanduser().resolve())


def _is_whole(entry: Path) -> bool:
    try:
        return load_entry(entry, "") is not None
    except DataError:
        return False


def write_entry(
    entry: Path,
    results: Iterable[np.ndarray | str],
    reader: ImageReader,
    *,
    origin: str,
    dtype: np.dtype = BYTES.dtype,
    rounded: Sequence[Depth] = (),
) -> None:
    """Write an entry, image by image. It appears when it is complete.

    results: for each image of `reader`, (C, H, W) of `dtype`, or why it was skipped. origin: the
    path of the data set, or the name of its source. rounded: the depths of images that become 8
    bits, known when the results are. Raises `DataError` if no image can be read, or if the
    disk cannot be written.
    """
    try:
        for left_over in entry.parent.glob(".partial-*"):  # of earlier versions
            shutil.rmtree(left_over, ignore_errors=True)
        with writing_to(entry.parent), atomic_file(entry, room=ROOM) as partial:
            partial.mkdir()
            if entry.is_dir() and not _is_whole(entry):  # first: it may be that of another user
                shutil.rmtree(entry)
            _write(partial, results, reader, origin, dtype, rounded)
    except DiskFull as error:
        raise DataError(str(error.strerror)) from error
    except CacheNotWritable:
        if not _is_whole(entry):  # no other process wrote it first
            raise


def _rounding(rounded: Sequence[Depth]) -> list[str]:
    """Return a line for each depth that becomes 8 bits."""
    return [
        f"{count:,} images of {NAMES[depth]} are rounded to 8. To keep them: data.depth={depth}"
        for depth, count in Counter(rounded).items()
    ]


def _write(
    folder: Path,
    results: Iterable[np.ndarray | str],
    reader: ImageReader,
    origin: str,
    dtype: np.dtype,
    rounded: Sequence[Depth],
) -> None:
    digest, kept, skipped, shape = hashlib.sha256(), [], [], ()
    with open(folder / IMAGES, "wb") as file:
        file.seek(_HEADER)
        for i, result in enumerate(results):
            if isinstance(result, str):
                skipped.append(result)
                continue
            kept.append(i)
            shape, content = result.shape, result.tobytes()
            digest.update(content)
            file.write(content)
        if not kept:
            raise DataError(
                f"data.path: none of the {len(skipped)} images of {origin} can be read: "
                f"{abbreviate(skipped)}. {ACCEPTED}"
            )
        shape, names = (len(kept), *shape), []
        file.seek(0)
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == _HEADER
    if reader.labels is not None:
        labels = np.ascontiguousarray(reader.labels[kept], dtype=np.int8)
        digest.update(labels.tobytes())
        np.save(folder / LABELS, labels)
        names = list(reader.label_names)
    digest.update(json.dumps([*shape, names]).encode())
    meta = _Meta(
        origin=origin,
        fingerprint=digest.hexdigest(),
        shape=shape,
        label_names=tuple(names),
        skipped=tuple(skipped),
        notes=(*reader.notes, *notes_on(reader.remarks), *_rounding(rounded)),
        files={path.name: _File.of(path) for path in folder.iterdir()},
    )
    meta.write(folder)
