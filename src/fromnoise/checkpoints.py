"""Checkpoints as folders: written beside their place, flushed to the disk, then renamed.

A folder `checkpoints/000500/` therefore either is whole or does not exist. It holds tensors in
.safetensors files and `state.json` with integers, texts and the SHA-256 of every file.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT_VERSION = 1
STATE = "state.json"
RESUME = "the earlier checkpoints stand, so free some space and resume"
AGAIN = "what was there stands, so free some space and do it again"


class CheckpointError(ValueError):
    """A file or folder that is no readable checkpoint: which, why, and what was expected."""


class NotFinite(RuntimeError):
    """Weights that must not be saved."""


class FolderNotEmpty(ValueError):
    """A folder that is to be new, and has something in it."""


class DiskFull(OSError):
    """There was no room for a file; what was there is untouched."""


class TensorFile(NamedTuple):
    """The content of one .safetensors file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def save_checkpoint(
    folder: Path, step: int, files: Mapping[str, TensorFile], state: Mapping[str, Any]
) -> Path:
    """Write `folder`/000500 for step 500, complete or not at all, and return its path.

    files: file name → tensors and metadata. state: JSON values, saved as `state.json` together with
    the format version, the step and the SHA-256 of each file.
    Raises DiskFull and NotFinite; the earlier checkpoints stand.
    """
    for name, file in files.items():
        if (key := first_non_finite(file.tensors)) is not None:
            raise NotFinite(
                f"step {step}: {key} in {name} is not finite, so no checkpoint was written; "
                "the earlier ones stand. Resume with a lower training.learning_rate"
            )

    target = folder / f"{step:06d}"
    if target.exists() and not find_damage(target):
        return target
    needed = sum(t.nbytes for file in files.values() for t in file.tensors.values()) + 2**20
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < needed:
        raise _disk_full(folder, needed)

    for left_over in folder.glob(".writing-*"):
        shutil.rmtree(left_over)
    writing = folder / f".writing-{target.name}"
    writing.mkdir()
    try:
        hashes = {}
        for name, file in files.items():
            write_tensors(writing / name, file)
            hashes[name] = sha256(writing / name)
        whole = {"format_version": FORMAT_VERSION, "step": step, **state, "sha256": hashes}
        (writing / STATE).write_text(json.dumps(whole, indent=1))
        for name in [*files, STATE]:
            fsync(writing / name)
        fsync(writing)
        if target.exists():  # it was found damaged above
            shutil.rmtree(target)
        writing.rename(target)
        fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        if _no_space(error):
            raise _disk_full(folder, needed) from error
        raise
    return target


def save_tensors_atomic(path: Path, file: TensorFile) -> None:
    """Write a lone .safetensors file in place of what is there, complete or not at all.

    Raises DiskFull and NotFinite; what was at `path` stands.
    """
    if (key := first_non_finite(file.tensors)) is not None:
        raise NotFinite(
            f"{key} is not finite, so {path} was not written; what was there stands; train with "
            "a lower training.learning_rate"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(t.nbytes for t in file.tensors.values()) + 2**20
    if shutil.disk_usage(path.parent).free < needed:
        raise _disk_full(path.parent, needed, path.name, AGAIN)
    writing = path.with_name(f".writing-{path.name}")
    try:
        write_tensors(writing, file)
        fsync(writing)
        writing.replace(path)
        fsync(path.parent)
    except (OSError, SafetensorError) as error:
        writing.unlink(missing_ok=True)
        if _no_space(error):
            raise _disk_full(path.parent, needed, path.name, AGAIN) from error
        raise


def require_empty_folder(folder: Path) -> None:
    """Raise FolderNotEmpty unless `folder` can be written without losing anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderNotEmpty(f"{folder.absolute()} is not empty; give --out a new folder")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write files into, which becomes `folder` once all is written and flushed.

    Raises FolderNotEmpty, and DiskFull; where anything is raised, nothing is left.
    """
    require_empty_folder(folder)
    writing = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(writing, ignore_errors=True)  # left over from one that was killed
    writing.mkdir(parents=True)
    try:
        yield writing
        for path in (*writing.iterdir(), writing):
            fsync(path)
        if folder.exists():  # an empty folder
            folder.rmdir()
        writing.rename(folder)
        fsync(folder.parent)
    except BaseException as error:
        shutil.rmtree(writing, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError) and _no_space(error):
            raise DiskFull(
                errno.ENOSPC,
                f"the disk is full, so {folder.absolute()} was not written; free some space and do "
                "it again",
            ) from error
        raise


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders inside `folder`, oldest first. They may yet be damaged."""
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint inside `folder`, and a line for each newer, damaged one."""
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        why = find_damage(path)
        if why is None:
            return path, damaged
        damaged.append(why)
    return None, damaged


def find_damage(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, in one line, or None if it is whole.

    A newer format version is not damage: that raises CheckpointError.
    """
    try:
        for name, expected in read_state(path)["sha256"].items():
            if not (path / name).is_file():
                return f"{path}: {name} is missing"
            if sha256(path / name) != expected:
                return f"{path}: {name} is damaged (its SHA-256 differs from {STATE})"
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:  # or not UTF-8
        return f"{path}: {STATE} cannot be read ({error})"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint. Raises CheckpointError for a newer format version."""
    state = json.loads((path / STATE).read_text())
    check_version(state["format_version"], path)
    return state


def write_tensors(path: Path, file: TensorFile) -> None:
    """Write a .safetensors file. Tensors are moved to the CPU and made contiguous."""
    tensors = {key: t.detach().cpu().contiguous() for key, t in file.tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # of a new file, as the user has set it
    # None, not {}: without tensors, safetensors would write {} as a header that it cannot read
    save_file(tensors, path, dict(file.metadata) or None)
    path.chmod(mode)  # safetensors lets nobody else read it


def read_tensors(file: Path) -> TensorFile:
    """The tensors and metadata of a .safetensors file. Raises CheckpointError if it has none."""
    try:
        with safe_open(file, framework="pt") as opened:
            keys = opened.keys()
            return TensorFile(
                {key: opened.get_tensor(key) for key in keys}, opened.metadata() or {}
            )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a whole .safetensors file ({error})") from error


def read_metadata(file: Path) -> Mapping[str, str]:
    """The metadata alone, as `read_tensors` gives them."""
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a whole .safetensors file ({error})") from error


def check_version(version: int, where: Path) -> None:
    """Refuse what a newer fromnoise wrote."""
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format version {version}, and this fromnoise reads versions up to "
            f"{FORMAT_VERSION}: install a newer fromnoise"
        )


def prune(newest: Path, *, keep: int, milestone_every: int | None) -> None:
    """Delete checkpoints before `newest`, which is whole, except `keep` − 1 and the milestones.

    A milestone is the first checkpoint at or after each multiple of `milestone_every`.
    One of a later step is damaged, or `newest` would not be the newest: it counts for nothing.
    """
    before = [p for p in list_checkpoints(newest.parent) if int(p.name) <= int(newest.name)]
    reached = 0  # milestones
    for path in before[:-keep]:
        passed = int(path.name) // milestone_every if milestone_every else 0
        if passed <= reached:
            shutil.rmtree(path)
        reached = max(reached, passed)


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or ∞ in it."""
    return next((key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Make a file or folder survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_space(error: Exception) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def _disk_full(
    folder: Path, needed: int, what: str = "a checkpoint", then: str = RESUME
) -> DiskFull:
    free = shutil.disk_usage(folder).free
    return DiskFull(
        errno.ENOSPC,
        f"the disk is full: {what} needs {needed / 2**20:.0f} MiB and {folder.absolute()} "
        f"has {free / 2**20:.0f} MiB free; {then}",
    )
