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
from pathlib import Path
from typing import IO, Any

import numpy as np
from platformdirs import user_cache_path

from fromnoise.checkpoints import DiskFull, atomic_file
from fromnoise.data.errors import DataError, reason
from fromnoise.data.sources.base import ImageReader

FORMAT = 3  # increase it if the same files decode to other pixels or labels
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


def load_entry(entry: Path) -> dict[str, Any] | None:
    """Return the fields of an `ImageSet`, mapped read-only, or None if no complete entry exists."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r")
        labels = np.load(entry / "labels.npy", mmap_mode="r") if meta["label_names"] else None
        if list(images.shape) != meta["shape"]:
            return None
        return {
            "images": images,
            "labels": labels,
            "label_names": tuple(meta["label_names"]),
            "fingerprint": meta["fingerprint"],
            "skipped": tuple(meta["skipped"]),
        }
    except (OSError, EOFError, ValueError, KeyError):
        return None


def write_entry(entry: Path, results: Iterable[np.ndarray | str], reader: ImageReader) -> None:
    """Write an entry, image by image. It appears when it is complete.

    results: for each image of `reader`, uint8 (C, H, W), or the line that explains why it was
    skipped. At least one is an image.
    Raises `DataError` if the disk cannot be written.
    """
    try:
        with atomic_file(entry, room=ROOM) as partial:
            partial.mkdir()
            _write(partial, results, reader)
            if entry.is_dir() and load_entry(entry) is None:  # damaged
                shutil.rmtree(entry)
    except DiskFull as error:
        raise DataError(error.strerror) from error
    except OSError as error:
        if load_entry(entry) is None:  # no other process wrote it first
            raise DataError(
                f"the cache {entry.parent} cannot be written ({reason(error)}). Check it, or set "
                "the environment variable FROMNOISE_CACHE to another folder."
            ) from error


def _write(folder: Path, results: Iterable[np.ndarray | str], reader: ImageReader) -> None:
    digest, kept, skipped, shape = hashlib.sha256(), [], [], ()
    with open(folder / "images.npy", "wb") as file:
        for i, result in enumerate(results):
            if isinstance(result, str):
                skipped.append(result)
                continue
            if not kept:
                shape = result.shape
                _write_header(file, (len(reader.names), *shape))
            kept.append(i)
            content = result.tobytes()
            digest.update(content)
            file.write(content)
        # numpy reserves space in the header for a longer first axis, so the final one fits.
        file.seek(0)
        _write_header(file, (len(kept), *shape))
    names = []
    if reader.labels is not None:
        labels = np.ascontiguousarray(reader.labels[kept], dtype=np.int8)
        digest.update(labels.tobytes())
        np.save(folder / "labels.npy", labels)
        names = list(reader.label_names)
    digest.update(json.dumps([len(kept), *shape, names]).encode())
    meta = {
        "fingerprint": digest.hexdigest(),
        "shape": [len(kept), *shape],
        "label_names": names,
        "skipped": skipped,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
