"""Store decoded images on disk, one folder per entry.

    <cache>/<key>/images.npy   uint8 (N, C, H, W)
                  labels.npy   int8 (N, K), if there are labels
                  meta.json    label names, fingerprint, skipped files

An entry is written to a temporary folder and then renamed. The key is a hash of the files and the
options, so an entry never changes. You can delete any entry at any time.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fromnoise.data.errors import DataError, reason

FORMAT = 3  # increase it if the same files decode to other pixels or labels
_PARTIAL = ".partial-"
_ABANDONED = 24 * 3600  # seconds after which a partial entry is deleted


def default_cache() -> Path:
    """Return $FROMNOISE_CACHE, else $XDG_CACHE_HOME/fromnoise, else ~/.cache/fromnoise."""
    if own := os.environ.get("FROMNOISE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fromnoise"


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


def write_entry(
    entry: Path,
    results: Iterable[np.ndarray | str],
    *,
    at_most: int,
    labels: np.ndarray | None,
    label_names: Sequence[str],
) -> int:
    """Write an entry, image by image, and return the number of images.

    `results` has `at_most` items in order: an image, uint8 (C, H, W), or the line that explains why
    it was skipped. `entry` appears when it is complete. Without images, no entry is created.
    Raises `DataError` if the disk cannot be written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(entry.parent)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=entry.parent))
        try:
            count = _write(partial, results, at_most, labels, label_names)
            if count:
                _commit(partial, entry)
            return count
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise _disk_error(error, entry.parent) from error


def _write(
    folder: Path,
    results: Iterable[np.ndarray | str],
    at_most: int,
    labels: np.ndarray | None,
    label_names: Sequence[str],
) -> int:
    digest, kept, skipped, shape = hashlib.sha256(), [], [], ()
    with open(folder / "images.npy", "wb") as file:
        for i, result in enumerate(results):
            if isinstance(result, str):
                skipped.append(result)
                continue
            if not kept:
                shape = result.shape
                _write_header(file, (at_most, *shape))
            kept.append(i)
            content = result.tobytes()
            digest.update(content)
            file.write(content)
        if not kept:
            return 0
        # numpy reserves space in the header for a longer first axis, so the final one fits.
        file.seek(0)
        _write_header(file, (len(kept), *shape))
        _flush(file)
    if labels is not None:
        labels = np.ascontiguousarray(labels[kept], dtype=np.int8)
        digest.update(labels.tobytes())
        with open(folder / "labels.npy", "wb") as file:
            np.save(file, labels)
            _flush(file)
    names = list(label_names) if labels is not None else []
    digest.update(json.dumps([len(kept), *shape, names]).encode())
    meta = {
        "fingerprint": digest.hexdigest(),
        "shape": [len(kept), *shape],
        "label_names": names,
        "skipped": skipped,
    }
    with open(folder / "meta.json", "w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1)
        _flush(file)
    return len(kept)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _commit(partial: Path, entry: Path) -> None:
    try:
        os.rename(partial, entry)
    except OSError:
        if not entry.is_dir():
            raise
        if load_entry(entry) is None:  # damaged
            shutil.rmtree(entry)
            os.rename(partial, entry)
        return  # another process wrote the same content first
    finally:
        if os.name != "nt":  # Windows cannot open folders
            folder = os.open(entry.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _remove_abandoned(cache: Path) -> None:
    for partial in cache.glob(f"{_PARTIAL}*"):
        try:
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # its owner just finished
            continue


def _disk_error(error: OSError, cache: Path) -> DataError:
    fix = "set the environment variable FROMNOISE_CACHE to another folder."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"the disk of the cache {cache} is full. Free some space, or {fix}")
    return DataError(f"the cache {cache} cannot be written ({reason(error)}). Check it, or {fix}")
