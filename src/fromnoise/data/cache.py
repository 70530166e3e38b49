"""Store decoded images on disk, one folder per entry.

    <cache>/<key>/images.npy   uint8 (N, C, H, W)
                  labels.npy   int8 (N, K), if there are labels
                  meta.json    label names, fingerprint, skipped files

An entry is written to a temporary folder and then renamed. The key is a hash of the files and the
options, so an entry never changes. You can delete any entry at any time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from fromnoise.checkpoints import DiskFull, atomic_file
from fromnoise.data.decoding.decode import ACCEPTED
from fromnoise.data.errors import DataError, abbreviate, reason
from fromnoise.data.sources.base import ImageReader

FORMAT = 3  # increase it if the same files decode to other pixels or labels
_HEADER = 128  # bytes, of an .npy with four axes, which numpy pads to a multiple of 64
ROOM = "Free some space, or set the environment variable FROMNOISE_CACHE to another folder."


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


@dataclass(frozen=True, eq=False)  # arrays do not compare to one bool
class ImageSet:
    """Images of one size, with or without labels."""

    images: np.ndarray  # uint8 (N, C, H, W), read-only, mapped from the cache
    labels: np.ndarray | None  # int8 (N, K): +1 present, −1 absent, 0 unknown; or None
    label_names: tuple[str, ...]  # K names; () without labels
    fingerprint: str  # SHA-256 (hex) of images, labels and label names
    skipped: tuple[str, ...]  # "folder/name.png: reason" for every broken file
    source: str  # a key of SOURCES

    def __len__(self) -> int:
        return len(self.images)


def load_entry(entry: Path, source: str) -> ImageSet | None:
    """Return the images of a source, mapped read-only, or None if no complete entry exists."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r")
        names, skipped = tuple(meta["label_names"]), tuple(meta["skipped"])
        labels = np.load(entry / "labels.npy", mmap_mode="r") if names else None
        complete = list(images.shape) == meta["shape"]
        data = ImageSet(images, labels, names, meta["fingerprint"], skipped, source)
    except (OSError, EOFError, ValueError, KeyError):
        return None
    return data if complete else None


def write_entry(
    entry: Path, results: Iterable[np.ndarray | str], reader: ImageReader, *, where: str
) -> None:
    """Write an entry, image by image. It appears when it is complete.

    results: for each image of `reader`, uint8 (C, H, W), or the line that explains why it was
    skipped. where: the source in messages.
    Raises `DataError` if no image can be read, or if the disk cannot be written.
    """
    try:
        with atomic_file(entry, room=ROOM) as partial:
            partial.mkdir()
            _write(partial, results, reader, where)
            if entry.is_dir() and load_entry(entry, "") is None:  # damaged
                shutil.rmtree(entry)
    except DiskFull as error:
        raise DataError(error.strerror) from error
    except OSError as error:
        if load_entry(entry, "") is None:  # no other process wrote it first
            raise DataError(
                f"the cache {entry.parent} cannot be written ({reason(error)}). Check it, or set "
                "the environment variable FROMNOISE_CACHE to another folder."
            ) from error


def _write(
    folder: Path, results: Iterable[np.ndarray | str], reader: ImageReader, where: str
) -> None:
    digest, kept, skipped, shape = hashlib.sha256(), [], [], ()
    with open(folder / "images.npy", "wb") as file:
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
                f"data.path: none of the {len(skipped)} images of {where} can be read: "
                f"{abbreviate(skipped)}. {ACCEPTED}"
            )
        shape, names = (len(kept), *shape), []
        file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == _HEADER
    if reader.labels is not None:
        labels = np.ascontiguousarray(reader.labels[kept], dtype=np.int8)
        digest.update(labels.tobytes())
        np.save(folder / "labels.npy", labels)
        names = list(reader.label_names)
    digest.update(json.dumps([*shape, names]).encode())
    content = {
        "fingerprint": digest.hexdigest(),
        "shape": shape,
        "label_names": names,
        "skipped": skipped,
    }
    (folder / "meta.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
