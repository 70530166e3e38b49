"""Real images in the space of an extractor: what generated ones are compared with.

    <cache>/features/<key>.npy   float32 (M, D)

The key is made of the images' fingerprint, the extractor and its weights, so that other images, or
the same ones through another network, never meet these features.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.checkpoints import flush
from fromnoise.data.cache import cache_key, default_cache
from fromnoise.evaluation.extractors import (
    Extractor,
    ExtractorError,
    Progress,
    in_parts,
    nothing,
)
from fromnoise.evaluation.moments import moments_of
from fromnoise.evaluation.real import Real


class Reference(NamedTuple):
    """A set of real images, as features or as the Gaussian that sums them up."""

    mean: np.ndarray  # float64 (D,)
    covariance: np.ndarray  # float64 (D, D)
    features: np.ndarray | None  # float32 (M, D); None where only the Gaussian is known
    said: dict[str, Any]  # which images they are, for JSON


def reference_of(real: Real, extractor: Extractor, *, progress: Progress = nothing) -> Reference:
    """The features of real images: extracted the first time, mapped from the cache after.

    Raises ExtractorError where they are not finite; then nothing is kept.
    """
    images, fingerprint = real.images.images, real.images.fingerprint
    key = cache_key([fingerprint, extractor.name, extractor.weights])
    file = default_cache().absolute() / "features" / f"{key}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        writing = file.with_suffix(f".writing-{os.getpid()}")
        try:
            shape = (len(images), extractor.width)
            kept = np.lib.format.open_memmap(writing, "w+", np.float32, shape)
            for rows, part in in_parts(extractor, images, progress):
                kept[rows] = part.features
            kept.flush()
            flush(writing)
            os.replace(writing, file)
        finally:
            writing.unlink(missing_ok=True)
    features = np.load(file, mmap_mode="r")
    moments = moments_of(features)
    said = {
        "what": real.what,
        "count": len(images),
        "shape": list(images.shape[1:]),
        "fingerprint": fingerprint,
    }
    return Reference(moments.mean, moments.covariance, features, said)


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
    said = {"what": f"mu and sigma of {path.absolute()}", "count": None}
    return Reference(mean, covariance, None, said)
