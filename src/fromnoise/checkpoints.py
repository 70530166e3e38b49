"""Write and read checkpoint folders atomically.

A checkpoint is written beside its final place, synced to the disk, then renamed. A folder
`checkpoints/000500/` therefore is complete or does not exist. It has tensors in .safetensors files,
and `state.json` with integers, strings and the SHA-256 of every file.
"""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMAT_VERSION = 1
BEST = "best"  # a link to the checkpoint with the lowest held-out loss
STATE, OWN_HASH = "state.json", "sha256 of the rest"
ROOM = "Free some space, then try again or resume."
LOCK, OWNER = ".lock", ".process"  # in a run folder; the latter has the number of the process
_WRITING = ".writing-"  # prefix of temporary names: .writing-NAME-PROCESS-RANDOM
_LEFT_OVER = f"{_WRITING}*-[0-9]*-{'[0-9a-f]' * 8}"
_LEFT = (LOCK, OWNER, _WRITING)
_ABANDONED = 24 * 3600  # seconds after which a temporary file is removed
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointError(ValueError):
    """A file or folder that cannot be read as a checkpoint."""


class NotFinite(RuntimeError):
    """Tensors with NaN or infinite values, which are never saved."""


class FolderNotEmpty(ValueError):
    """An output folder that already has files in it."""


class DiskFull(OSError):
    """The disk is full. Existing files are unchanged."""


class TensorFile(NamedTuple):
    """The content of a .safetensors file."""

    tensors: "Mapping[str, Tensor]"
    metadata: Mapping[str, str]


def save_checkpoint(
    folder: Path, step: int, files: Mapping[str, TensorFile], state: Mapping[str, Any]
) -> Path:
    """Write `folder`/000500 for step 500 atomically and return its path.

    files: file name → tensors and metadata. state: JSON values, saved as `state.json` together with
    the format version, the step and the SHA-256 of each file.
    Raises DiskFull and NotFinite. Earlier checkpoints are never changed.
    """
    target = folder / f"{step:06d}"
    for name, file in files.items():
        _require_finite(file, target / name)
    if target.exists() and not find_damage(target):
        return target
    for left_over in folder.glob(f"{_WRITING}*"):  # of a killed process: only one trains a run
        _remove(left_over)
    with atomic_file(target, needed=size_of(*files.values())) as writing:
        writing.mkdir()
        hashes = {}
        for name, file in files.items():
            write_tensors(writing / name, file)
            hashes[name] = sha256(writing / name)
        content = {"format_version": FORMAT_VERSION, "step": step, **state, "sha256": hashes}
        content |= {OWN_HASH: _own_hash(content)}
        (writing / STATE).write_text(json.dumps(content, indent=1))
        if target.exists():  # damaged, see above
            shutil.rmtree(target)
    return target


def save_tensors_atomic(path: Path, file: TensorFile) -> None:
    """Write or replace a single .safetensors file atomically, with a hash of its own.

    Raises DiskFull and NotFinite. The previous file at `path` is then unchanged.
    """
    _require_finite(file, path)
    with atomic_file(path, needed=size_of(file)) as writing:
        write_tensors(writing, with_own_hash(file))


def require_room(target: Path, needed: int = 2**20) -> None:
    """Raise DiskFull or OSError unless `needed` bytes can be written to a file or folder."""
    with disk_full_names(target, needed=needed):
        parent = _existing(target)
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            number = errno.EACCES if parent.is_dir() else errno.ENOTDIR
            raise OSError(number, os.strerror(number), str(target.absolute()))


def _existing(target: Path) -> Path:
    """Return `target` if it is a folder, or else its nearest parent that exists."""
    own = [target] if target.is_dir() else []
    return next(path for path in (*own, *target.absolute().parents) if path.exists())


def require_empty_folder(folder: Path, needed: int = 2**20) -> None:
    """Raise FolderNotEmpty if `folder` has files, except those of a killed process.

    Raises the errors of `require_room`, too.
    """
    found = folder.iterdir() if folder.is_dir() else [folder] if folder.exists() else []
    if not all(path.name.startswith(_LEFT) for path in found):
        raise FolderNotEmpty(f"{folder.absolute()} is not empty. Give --out a new folder.")
    require_room(folder, needed)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process. The system releases the lock when the process ends.

    Raises ValueError if another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / LOCK), folder / OWNER
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        number = owner.read_text() if owner.is_file() else "unknown"
        raise ValueError(
            f"{folder.absolute()} is in use by process {number}. Wait for it, or give another "
            "folder."
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        with disk_full_names(owner):
            owner.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


@contextmanager
def atomic_file(
    target: Path, *, needed: int = 0, room: str = ROOM, sync: bool = True
) -> Iterator[Path]:
    """Yield a path beside `target` for a new file or folder, which then becomes `target`.

    It is synced to the disk and renamed, so at any moment `target` is either the old one or the
    complete new one. After an exception no file is left. If `target` is a symbolic link, the link
    is replaced, and the file it points to is unchanged.

    needed: bytes that must be free. room: advice to free space, for the message. sync: False for
    one of many files, which a power cut may then damage.
    Raises DiskFull.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if sync:
        _remove_left_over(target.parent)
    # a suffix that no glob pattern of a reader matches
    writing = target.with_name(f"{_WRITING}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with disk_full_names(target, needed=needed, room=room):
            yield writing
            for path in (*writing.rglob("*"), writing) if sync else ():
                fsync(path)
            os.replace(writing, target)
            if sync:
                fsync(target.parent)
    except BaseException:
        _remove(writing)
        raise


@contextmanager
def disk_full_names(target: Path, *, needed: int = 0, room: str = ROOM) -> Iterator[None]:
    """Raise DiskFull with the name of `target` if the disk is full, or fills up in this context.

    Arguments as in `atomic_file`.
    """
    try:
        if shutil.disk_usage(_existing(target)).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except Exception as error:
        if getattr(error, "errno", None) in _FULL or "No space left" in str(error):
            free = shutil.disk_usage(_existing(target)).free
            sizes = f" It needs {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free."
            raise DiskFull(
                errno.ENOSPC,
                f"the disk is full: {target.absolute()} was not written.{sizes if needed else ''} "
                f"Existing files are unchanged. {room}",
            ) from error
        raise


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when it is complete; see `atomic_file`.

    Raises FolderNotEmpty and DiskFull.
    """
    require_empty_folder(folder)
    folder = folder.resolve()
    with atomic_file(folder) as writing:
        writing.mkdir()
        yield writing
        require_empty_folder(folder)  # another process may have filled it
        if folder.exists():  # some systems do not rename onto an empty folder
            shutil.rmtree(folder)


def _remove_left_over(folder: Path) -> None:
    """Remove files of killed processes. A younger file may be one that a process still writes."""
    for path in folder.glob(_LEFT_OVER):
        with suppress(OSError):  # another process may remove it, too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_of(*files: TensorFile) -> int:
    """Return the size of files in bytes, with a margin of 1 MiB."""
    return sum(tensor.nbytes for file in files for tensor in file.tensors.values()) + 2**20


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders inside `folder`, oldest first. They are not verified."""
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))


def newest_checkpoint(folder: Path, *, file: str | None = None) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, and a message for each newer one that is damaged.

    file: see `find_damage`.
    """
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        damage = find_damage(path, file=file)
        if damage is None:
            return path, damaged
        damaged.append(damage)
    return None, damaged


def find_damage(path: Path, *, file: str | None = None) -> str | None:
    """Return the damage of the checkpoint at `path` in one line, or None if it is complete.

    file: the only one that will be read; by default all are verified.
    Raises CheckpointError for a newer format version, which is not damage.
    """
    try:
        state = read_state(path)
        hashes = state["sha256"]
        if state.pop(OWN_HASH, None) not in (_own_hash(state), None):  # older ones have none
            return f"{path}: {STATE} is damaged (its SHA-256 differs)"
        if not hashes or (path.name.isdigit() and state["step"] != int(path.name)):
            return f"{path}: {STATE} is of step {state['step']}, with {len(hashes)} files"
        for name in [file] if file else hashes:
            if not (path / name).is_file():
                return f"{path}: {name} is missing"
            if sha256(path / name) != hashes[name]:
                return f"{path}: {name} is damaged (its SHA-256 differs from {STATE})"
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:  # or not UTF-8
        return f"{path}: {STATE} cannot be read ({error})"
    return None


def _own_hash(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """Return `state.json` of a checkpoint. Raises CheckpointError for a newer format version."""
    state = json.loads((path / STATE).read_text())
    check_version(state["format_version"], path)
    return state


def write_tensors(path: Path, file: TensorFile) -> None:
    """Write a .safetensors file. Tensors are moved to the CPU and made contiguous."""
    from safetensors.torch import save_file  # imports torch, which the data commands do not need

    tensors = {key: t.detach().cpu().contiguous() for key, t in file.tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # from the umask
    # None, not {}: without tensors, safetensors writes {} as a header that it cannot read
    save_file(tensors, path, dict(file.metadata) or None)
    path.chmod(mode)  # safetensors makes the file private
    if len(file.metadata) > 1:
        _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a .safetensors file, whose order is random: same content, same bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(content) <= length  # which is padded with spaces
        file.seek(8)
        file.write(content.ljust(length))


def read_tensors(file: Path, *, metadata_only: bool = False) -> TensorFile:
    """Return the tensors and metadata of a .safetensors file. Raises CheckpointError."""
    try:
        with safe_open(file, framework="pt") as opened:
            keys = [] if metadata_only else opened.keys()
            tensors = {key: opened.get_tensor(key) for key in keys}
            metadata = dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} is not a valid .safetensors file ({error}). Give a model of fromnoise, or "
            "first convert another program's checkpoint with fromnoise import."
        ) from error
    own_hash, read = metadata.pop(OWN_HASH, None), TensorFile(tensors, metadata)
    if not metadata_only and own_hash not in (None, _hash_of(read)):
        raise CheckpointError(f"{file} is damaged (its SHA-256 differs). Restore it from a copy.")
    return read


def with_own_hash(file: TensorFile) -> TensorFile:
    """Return the content with its SHA-256 in the metadata, for a file outside of a checkpoint."""
    return file._replace(metadata={**file.metadata, OWN_HASH: _hash_of(file)})


def _hash_of(file: TensorFile) -> str:
    """Return the SHA-256 of tensors and metadata, independent of their order."""
    content = {"metadata": dict(file.metadata), "tensors": hash_of(file.tensors)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_weights(module: "Module", tensors: "Mapping[str, Tensor]", file: Path) -> None:
    """Load tensors of a file into a module. Raises CheckpointError if they do not fit it."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: the weights do not fit the network: {detail}") from error


def check_version(version: int, where: Path) -> None:
    """Raise CheckpointError if a newer fromnoise wrote `where`."""
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format version {version}, but this fromnoise reads versions up to "
            f"{FORMAT_VERSION}. Install a newer fromnoise."
        )


def mark_best(folder: Path, losses: Sequence[tuple[int, float]]) -> Path | None:
    """Link `folder`/best to the checkpoint with the lowest held-out loss, and return it.

    losses: (step, loss). None if there is no such checkpoint.
    """
    saved = {int(path.name): path for path in list_checkpoints(folder)}
    known = [(loss, step) for step, loss in losses if step in saved and math.isfinite(loss)]
    if not known:
        return None
    best = saved[min(known)[1]]
    writing = folder / f"{_WRITING}{BEST}"
    with suppress(OSError):  # a file system without links
        writing.unlink(missing_ok=True)
        writing.symlink_to(best.name)
        writing.replace(folder / BEST)
    return best


def prune(newest: Path, keep: int, milestone_every: float | None, best: Path | None = None) -> None:
    """Delete checkpoints before `newest`, except `keep` − 1, the milestones and the best.

    A milestone is the first checkpoint at or after each multiple of `milestone_every`.
    Checkpoints after `newest` are damaged, so they are neither counted nor deleted.
    """
    before = [p for p in list_checkpoints(newest.parent) if int(p.name) <= int(newest.name)]
    reached = 0  # milestones
    for path in before[:-keep]:
        passed = int(path.name) // milestone_every if milestone_every else 0
        if passed <= reached and path != best:
            shutil.rmtree(path)
        reached = max(reached, passed)


def _require_finite(file: TensorFile, path: Path) -> None:
    if (key := first_non_finite(file.tensors)) is not None:
        raise NotFinite(
            f"{key} is not finite, so {path} was not written. Existing files are unchanged. Train "
            "with a lower training.learning_rate."
        )


def first_non_finite(tensors: "Mapping[str, Tensor]") -> str | None:
    """Return the name of the first tensor with NaN or ∞ in it, or None."""
    return next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)


def hash_of(tensors: "Mapping[str, Tensor]") -> str:
    """Return the SHA-256 (hex) of tensors with their names."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Sync a file or folder to the disk, so that it survives a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
