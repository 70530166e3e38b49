"""Real images in the space of an extractor: what generated ones are compared with.

    <cache>/features/<key>.npy   float32 (M, D)

The key is made of the images' fingerprint, the extractor and its weights, so that other images, or
the same ones through another network, never meet these features. While they are extracted the
file is called <key>.writing-HOST-PROCESS, which is removed if that process has died.
"""

import errno
import os
import platform
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.checkpoints import DiskFull, fsync, sha256
from fromnoise.config.errors import ConfigError
from fromnoise.data.cache import cache_key, default_cache
from fromnoise.evaluation.features import (
    Extractor,
    ExtractorError,
    Progress,
    extract_in_parts,
    no_progress,
)
from fromnoise.evaluation.fid import moments_of
from fromnoise.evaluation.images import (
    NO_RUN,
    RealImages,
    RunImages,
    images_at_size,
    images_like_training,
)
from fromnoise.model.spec import ModelSpec, is_model
from fromnoise.progress import progress_bar

RUN_SPLITS = ("train", "test")


class Reference(NamedTuple):
    """A set of real images, as features or as the Gaussian that sums them up."""

    mean: np.ndarray  # float64 (D,)
    covariance: np.ndarray  # float64 (D, D)
    features: np.ndarray | None  # float32 (M, D); None where only the Gaussian is known
    info: dict[str, Any]  # of the images, for JSON


def reference_of(
    real: RealImages, extractor: Extractor, *, progress: Progress = no_progress
) -> Reference:
    """The features of real images: extracted the first time, mapped from the cache after.

    Where the file there is damaged, they are extracted again.
    Raises ExtractorError where they are not finite and DiskFull; then nothing is kept.
    """
    images, fingerprint = real.images.images, real.images.fingerprint
    key = cache_key([fingerprint, extractor.name, extractor.weights])
    file = default_cache().absolute() / "features" / f"{key}.npy"
    _remove_abandoned(file.parent)
    shape = (len(images), extractor.width)
    features = _load_cached(file, shape)
    if features is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        writing = file.with_suffix(f".writing-{platform.node()}-{os.getpid()}")
        try:
            kept = _allocate(writing, shape)
            for rows, part in extract_in_parts(extractor, images, progress):
                kept[rows] = part.features
            kept.flush()
            fsync(writing)
            os.replace(writing, file)
        finally:
            writing.unlink(missing_ok=True)
        features = np.load(file, mmap_mode="r")
    moments = moments_of(features)
    return Reference(moments.mean, moments.covariance, features, describe(real))


def describe(real: RealImages) -> dict[str, Any]:
    """Which images they are, for JSON."""
    return {
        "what": real.what,
        "count": len(real.images),
        "shape": list(real.images.images.shape[1:]),
        "fingerprint": real.images.fingerprint,
    }


def reference_from_npz(path: Path, extractor: Extractor) -> Reference:
    """The Gaussian that another program summed a set up by: `mu` (D,) and `sigma` (D, D).

    Raises ExtractorError where they are not there, not finite, or of another width. Of which
    extractor they are cannot be seen from such a file.
    """
    with np.load(path) as stored:
        if not {"mu", "sigma"} <= set(stored.files):
            raise ExtractorError(f"{path} has no mu and sigma, but {', '.join(stored.files)}")
        mean, covariance = stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64)
    d = extractor.width
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise ExtractorError(
            f"{path} has statistics of {mean.size:,} features, but {extractor.name} has {d:,}; "
            "they must be of the same extractor"
        )
    if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
        raise ExtractorError(f"{path}: mu or sigma is NaN or infinite in places")
    info = {
        "what": f"mu and sigma of {path.absolute()}",
        "count": None,
        "fingerprint": sha256(path),
    }
    return Reference(mean, covariance, None, info)


def _load_cached(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The features in a file, mapped; None where there is none or where it is damaged."""
    try:
        features = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


def _allocate(path: Path, shape: tuple[int, int]) -> np.memmap:
    """A new file of float32, mapped. Raises DiskFull where the disk does not hold all of it.

    Its space is taken at once: where a mapped file finds none later, the process is killed.
    """
    try:
        mapped = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed, free = 4 * shape[0] * shape[1], shutil.disk_usage(path.parent).free
        raise DiskFull(
            errno.ENOSPC,
            f"the disk is full: the features of {shape[0]:,} real images need "
            f"{needed / 2**20:.0f} MiB and {path.parent} has {free / 2**20:.0f} MiB free; make "
            "room there, or choose another folder with the environment variable FROMNOISE_CACHE",
        ) from error
    return mapped


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left half written."""
    for path in folder.glob(f"*.writing-{platform.node()}-*"):
        process = path.name.rpartition("-")[2]
        if process.isdecimal() and not _alive(int(process)):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # where there is no signal that does nothing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another person's
        return True
    return True


def open_real(
    reference: str,
    shape: tuple[int, int, int],
    spec: ModelSpec | None = None,
    run_images: RunImages = NO_RUN,
) -> RealImages | None:
    """Return the real images of `--reference`; None if it is an npz of `mu` and `sigma`.

    shape: (C, H, W) of the scored images. spec, run_images: of the model, if there is one.
    Raises ConfigError if there is nothing to compare, DataError if it is unreadable.
    """
    if _is_statistics(reference):
        return None
    if reference in RUN_SPLITS:
        real = run_images.training if reference == "train" else run_images.held_out
        if real is None:
            reason = "the source has no test split" if run_images.training else run_images.reason
            raise ConfigError(
                f"--reference {reference} is not available: {reason}. Give a folder, zip or npz of "
                "real images."
            )
        return real
    _check_real_images(Path(reference).expanduser())
    if spec is None:
        return images_at_size(Path(reference), shape)
    return images_like_training(spec, Path(reference))


def open_reference(reference: str, real: RealImages | None, extractor: Extractor) -> Reference:
    """Return the reference of `open_real` in the features of an extractor."""
    if real is None:
        return reference_from_npz(Path(reference), extractor)
    with progress_bar("features of real images") as progress:
        return reference_of(real, extractor, progress=progress)


def _check_real_images(path: Path) -> None:
    """Raise ConfigError for a run: its curves and previews are no reference."""
    fix = "Give train or test, or a folder, zip or npz of real images."
    if not path.exists():
        raise ConfigError(f"--reference {path.absolute()} does not exist. {fix}")
    if is_model(path):
        raise ConfigError(f"--reference {path.absolute()} is a run or a model. {fix}")


def _is_statistics(reference: str) -> bool:
    if not reference.endswith(".npz") or not Path(reference).is_file():
        return False
    try:
        with np.load(reference) as stored:
            return not {"mu", "sigma"}.isdisjoint(stored.files)
    except Exception:  # reading it as images will name the damage
        return False
