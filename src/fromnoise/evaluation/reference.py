"""Open the real images that generated ones are compared with, and cache their features.

    <cache>/features/<key>.npy   float32 (M, D)

The key depends on the images' fingerprint, the extractor and its weights.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.checkpoints import atomic_file, sha256
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError
from fromnoise.data.dataset import ROOM, cache_key, default_cache
from fromnoise.evaluation.features import (
    Extractor,
    ExtractorError,
    Progress,
    extract_features,
    no_progress,
)
from fromnoise.evaluation.fid import moments_of
from fromnoise.evaluation.images import NO_RUN, RealImages, RunImages, open_comparable
from fromnoise.model.spec import ModelSpec, is_model
from fromnoise.progress import progress_bar

RUN_SPLITS = ("train", "test")


class Reference(NamedTuple):
    """A set of real images, as features and their Gaussian, or as the Gaussian alone."""

    mean: np.ndarray  # float64 (D,)
    covariance: np.ndarray  # float64 (D, D)
    features: np.ndarray | None  # float32 (M, D); None if only the Gaussian is known
    info: dict[str, Any]  # of the images, for JSON


def reference_of(
    real: RealImages, extractor: Extractor, *, progress: Progress = no_progress
) -> Reference:
    """Return the features of real images, from the cache unless they are missing or damaged there.

    Raises ExtractorError for features that are not finite, and DiskFull; then no file is left.
    """
    images, fingerprint = real.images.images, real.images.fingerprint
    key = cache_key([fingerprint, extractor.name, extractor.weights])
    file = default_cache().absolute() / "features" / f"{key}.npy"
    shape = (len(images), extractor.width)
    features = _load_cached(file, shape)
    if features is None:
        with atomic_file(file, needed=4 * len(images) * extractor.width, room=ROOM) as writing:
            mapped = np.lib.format.open_memmap(writing, "w+", np.float32, shape)
            if hasattr(os, "posix_fallocate"):
                # a process is killed if its mapped file finds no space later
                with writing.open("r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, writing.stat().st_size)
            extract_features(extractor, images, progress, out=mapped)
            mapped.flush()
        features = np.load(file, mmap_mode="r")
    moments = moments_of(features)
    return Reference(moments.mean, moments.covariance, features, describe(real))


def describe(real: RealImages) -> dict[str, Any]:
    """Return the source of real images, for JSON."""
    return {
        "what": real.what,
        "count": len(real.images),
        "shape": list(real.images.images.shape[1:]),
        "fingerprint": real.images.fingerprint,
    }


def reference_from_npz(path: Path, extractor: Extractor) -> Reference:
    """Read the Gaussian that another program fitted to a set: `mu` (D,) and `sigma` (D, D).

    The file does not tell its extractor.
    Raises ExtractorError if they are missing, not finite, or of another width.
    """
    with np.load(path) as stored:
        if not {"mu", "sigma"} <= set(stored.files):
            raise ExtractorError(
                f"{path} has {', '.join(stored.files)}. Give an npz with mu and sigma."
            )
        mean, covariance = stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64)
    d = extractor.width
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise ExtractorError(
            f"{path} has statistics of {mean.size:,} features, but {extractor.name} has {d:,}. Use "
            "statistics of the same extractor."
        )
    if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
        raise ExtractorError(f"{path}: mu or sigma is NaN or infinite. Compute them again.")
    info = {"what": f"mu and sigma of {path.absolute()}", "count": None}
    return Reference(mean, covariance, None, info | {"fingerprint": sha256(path)})


def _load_cached(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the features in a file, mapped; None if it is missing or damaged."""
    try:
        features = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


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
    path = Path(reference).expanduser()
    if not path.exists() or is_model(path):  # the curves and previews of a run are no reference
        problem = "is a run or a model" if path.exists() else "does not exist"
        raise ConfigError(
            f"--reference {path.absolute()} {problem}. Give train or test, or a folder, zip or npz "
            "of real images."
        )
    if spec is not None:  # brought to the model's size as in its training
        named = spec.source if spec.source != "iclevr" else None
        options = {name: getattr(spec, name) for name in ("size", "channels", "fit", "background")}
        images = open_comparable(path, named=named, **options)
    elif (own := (images := open_comparable(path)).images.shape[1:]) != shape:
        theirs, ours = (f"{h}×{w} (H×W) with {c} channels" for c, h, w in (own, shape))
        raise DataError(
            f"{path.absolute()} has images of {theirs}, but the generated ones are {ours}. Bring "
            "them to one size."
        )
    return RealImages(images, str(path.absolute()))


def open_reference(reference: str, real: RealImages | None, extractor: Extractor) -> Reference:
    """Return the reference of `open_real` in the features of an extractor."""
    if real is None:
        return reference_from_npz(Path(reference), extractor)
    with progress_bar("features of real images") as progress:
        return reference_of(real, extractor, progress=progress)


def _is_statistics(reference: str) -> bool:
    if not reference.endswith(".npz") or not Path(reference).is_file():
        return False
    try:
        with np.load(reference) as stored:
            return not {"mu", "sigma"}.isdisjoint(stored.files)
    except Exception:  # the damage is reported when it is read as images
        return False
