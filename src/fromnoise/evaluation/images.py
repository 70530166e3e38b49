"""Images of an evaluation: real ones of a run or folder, generated ones of a model or folder.

The features of real images are cached:

    <cache>/features/<key>.npy   float32 (M, D)

The key depends on the images' fingerprint, the extractor and its weights.
"""

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import atomic_file, sha256
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.config.schema import Data, SamplingConfig
from fromnoise.data import DataError, ImageSet, SeveralSizes, detect_source, open_images
from fromnoise.data.dataset import ROOM, cache_key, default_cache, writing_to
from fromnoise.data.errors import abbreviate
from fromnoise.data.holdout import split_holdout
from fromnoise.data.text import open_regular
from fromnoise.evaluation.copies import evenly_spaced
from fromnoise.evaluation.features import Extractor, ExtractorError, extract_features
from fromnoise.evaluation.metrics import fixed_order, moments_of
from fromnoise.model.model import Model, load
from fromnoise.model.sampling import with_guidance
from fromnoise.model.spec import ModelSpec, Weights, is_model
from fromnoise.pictures import NOT_OURS, difference, samples_in
from fromnoise.progress import Progress, no_progress, progress_bar
from fromnoise.rng import generator

logger = logging.getLogger("fromnoise")

RECIPE_FILE = "recipe.yaml"
RUN_SPLITS = ("train", "test")
BATCH_SIZE = 64  # images sampled at a time
logger = logging.getLogger("fromnoise")


class RealImages(NamedTuple):
    """Real images and their description."""

    images: ImageSet
    what: str


class RunImages(NamedTuple):
    """The training and the held-out images of a run, if they are available."""

    training: RealImages | None = None
    held_out: RealImages | None = None  # the test split of the same source
    reason: str = f"the training images are unknown: there is no {RECIPE_FILE}"  # if there are none


NO_RUN = RunImages()


def run_images_of(run: Path) -> RunImages:
    """Return the training and the held-out images of a run folder, prepared as for the training."""
    if not (run / RECIPE_FILE).is_file():
        return NO_RUN
    try:
        data = load_recipe(run / RECIPE_FILE).data
        opened, held_out = _open_split(data, data.split), None
        what = f"{data.source}, {data.split}"
        if data.holdout is not None:  # the images as they are in the training
            opened, held = split_holdout(opened, data.holdout)
            held_out = RealImages(held.as_bytes(), f"{what}, held out")
        if data.depth != 8:
            logger.info("images of %s are compared as 8 bits, 0 and 255", opened.levels)
        training = RealImages(opened.as_bytes(), what)
    except (ConfigError, DataError) as error:  # the recipe is damaged, or the images are gone
        return RunImages(reason=f"the training images are not available: {error}")
    with suppress(DataError):  # most sources have no test split
        if data.split != "test":
            test = _open_split(data, "test").as_bytes()
            return RunImages(training, RealImages(test, f"{data.source}, test"))
    return RunImages(training, held_out)


def _open_split(data: Data, split: str) -> ImageSet:
    options = data.model_dump(exclude={"source", "path", "flip", "labels", "split", "holdout"})
    return open_images(data.source, data.path, split=split, **options)


def open_comparable(path: Path, *, named: str | None = None, **options: Any) -> ImageSet:
    """Open the images of a folder, zip or npz; of a folder of `fromnoise sample`, the samples.

    named: see `detect_source`. options: see `open_images`.
    Raises DataError, which names a file, for images of several sizes if no size is set.
    """
    source = detect_source(path, named=named)
    samples = _require_one_set(path.expanduser()) if source == "folder" else {}
    if white := next((texts["white"] for texts in samples.values() if "white" in texts), None):
        options |= {"white": int(white)}
    try:
        images = open_images(source, path, only=list(samples) or None, **options)
    except SeveralSizes as error:
        raise DataError(
            f"{path.absolute()}: {error.sizes}. Images are compared unchanged: bring them to one "
            "size, or remove the others."
        ) from error
    for line in images.notes:
        logger.info("%s: %s", path, line)
    return images


def _require_one_set(folder: Path) -> dict[str, dict[str, str]]:
    """Return the samples in a folder of `fromnoise sample` and their metadata, {} for another one.

    The folder may also hold a grid, the noise and a strip.
    Raises DataError for samples of two models or settings.
    """
    found = samples_in(folder)
    written = {name: texts for name, texts in found.items() if texts}
    if not written:
        return {}
    first = next(iter(written))
    for name, texts in found.items():
        problem = difference(texts, written[first]) if texts else NOT_OURS
        if problem:
            raise DataError(
                f"{folder.absolute()} mixes samples: {name} has {problem}. Move the "
                "samples of each model and setting to a folder of their own."
            )
    if channels := written[first].get("channels"):
        raise DataError(
            f"{folder.absolute()}: the PNGs show only some of {channels} channels. Give the npz "
            "beside them."
        )
    return found


class Reference(NamedTuple):
    """A set of real images, as features and their Gaussian, or as the Gaussian alone."""

    mean: np.ndarray  # float64 (D,)
    covariance: np.ndarray  # float64 (D, D)
    features: np.ndarray  # float32 (M, D); M = 0 if only the Gaussian is known
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
    features = None
    with suppress(OSError, EOFError, ValueError):
        features = np.load(file, mmap_mode="r")
    if features is None or (features.shape, features.dtype) != (shape, np.float32):
        size = 4 * len(images) * extractor.width
        with writing_to(file.parent), atomic_file(file, needed=size, room=ROOM) as writing:
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


def reference_from_npz(reference: str | Path, extractor: Extractor) -> Reference:
    """Read the Gaussian that another program fitted to a set: `mu` (D,) and `sigma` (D, D).

    The file does not tell its extractor.
    Raises ExtractorError if they are missing, not finite, or of another width.
    """
    path = Path(reference).expanduser()
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
    none = np.empty((0, d), np.float32)
    return Reference(mean, covariance, none, info | {"fingerprint": sha256(path)})


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
    if path.suffix == ".npz":  # damage is reported when images are read
        with suppress(Exception), open_regular(path) as file, np.load(file) as stored:
            if not {"mu", "sigma"}.isdisjoint(stored.files):
                return None
    if not path.exists() or is_model(path):  # the curves and previews of a run are no reference
        problem = "is a run or a model" if path.exists() else "does not exist"
        raise ConfigError(
            f"--reference {path.absolute()} {problem}. Give train or test, or a folder, zip or npz "
            "of real images."
        )
    if spec is not None:  # brought to the model's size as in its training
        named = spec.source if spec.source != "iclevr" else None
        names = ("size", "channels", "fit", "background", "white")
        options = {name: getattr(spec, name) for name in names}
        if spec.depth == "float":
            options |= {"depth": spec.depth, "range": spec.range}
        images = open_comparable(path, named=named, **options).as_bytes()
    elif (own := (images := open_comparable(path)).images.shape[1:]) != shape:
        theirs, ours = (f"{h}×{w} (H×W) with {c} channels" for c, h, w in (own, shape))
        what = "to one size" if own[1:] != shape[1:] else "all to grey or all to colour"
        raise DataError(
            f"{path.absolute()} has images of {theirs}, but the generated ones are {ours}. Bring "
            f"them {what}."
        )
    return RealImages(images, str(path.absolute()))


def open_reference(reference: str, real: RealImages | None, extractor: Extractor) -> Reference:
    """Return the reference of `open_real` in the features of an extractor."""
    if real is None:
        return reference_from_npz(reference, extractor)
    with progress_bar("features of real images") as progress:
        return reference_of(real, extractor, progress=progress)


class Drawing(NamedTuple):
    """The settings by which images of a model are sampled."""

    weights: Weights | None = None
    batch_size: int | None = None  # None: 64
    device: str = "auto"
    sampling: Mapping[str, Any] = {}
    """Overrides, see `resolve_sampling`; `precision` is fp32 unless it is set."""


def load_in_fp32(path: Path, drawing: Drawing) -> Model:
    """Load a model for which `precision=auto` is fp32: its scores do not depend on the device."""
    model = load(path, weights=drawing.weights, device=drawing.device)
    model.auto_precision = "fp32"
    return model


class Generated(NamedTuple):
    """Generated images and their description."""

    images: np.ndarray  # uint8 (N, C, H, W)
    info: dict[str, Any]  # for JSON
    seconds: float | None  # of sampling
    block_order: np.ndarray | None = None  # (N,), an order whose stretches are alike; None: theirs


def has_labels(model: Model, real: RealImages | None) -> bool:
    """Return whether real images have the labels of a conditional model."""
    names = model.spec.label_names
    return bool(names) and real is not None and real.images.label_names == names


def generate_images(
    model: Model,
    num: int,
    config: SamplingConfig,
    *,
    labels_of: RealImages | None = None,
    first_seed: int = 0,
    batch_size: int | None = None,
    loaded_from: str = "",
    progress: Progress = no_progress,
) -> Generated:
    """Sample one image for each of the `num` seeds from `first_seed` on, held in memory.

    labels_of: a conditional model samples their labels, in the order of `interleave_labels`.
    """
    cond, labels = labels_like(labels_of, model, num), "none: the model is unconditional"
    if cond is not None:
        labels = "those of the reference images, in about the same proportions"
    elif model.spec.label_names:
        labels = "none: the reference lacks the labels of the model"
    config = config if cond is not None else with_guidance(config, 1.0)
    started = time.perf_counter()
    seeds = range(first_seed, first_seed + num)
    images = sample_batches(model, seeds, config, cond, batch_size=batch_size, progress=progress)
    info = {
        "what": "model",
        "count": num,
        "seeds": f"{first_seed}-{first_seed + num - 1}",
        "loaded from": loaded_from,
        **model.spec.weights_info(),
        "precision": config.precision,
        "sampling": config.model_dump(mode="json"),
        "labels": labels,
        "quantisation": "x_0 rounded to uint8",
    }
    return Generated(images, info, time.perf_counter() - started)


def sample_batches(
    model: Model,
    seeds: range,
    config: SamplingConfig,
    cond: Tensor | None,
    *,
    batch_size: int | None,
    progress: Progress,
) -> np.ndarray:
    """Return the image of each seed, uint8 (N, C, H, W), with progress after each batch."""
    images, batch_size = [], batch_size or BATCH_SIZE
    for i in range(0, len(seeds), batch_size):
        rows = slice(i, min(i + batch_size, len(seeds)))
        of_rows = None if cond is None else cond[rows]
        drawn = model.sample(seeds[rows], config, batch_size=batch_size, cond=of_rows)
        images.append(model.spec.levels.to_bytes(drawn.numpy()))
        progress(rows.stop, len(seeds))
    return np.concatenate(images)


def labels_like(real: RealImages | None, model: Model, num: int) -> Tensor | None:
    """Return labels of real images, int8 (num, K), in the order of `interleave_labels`.

    None if they lack the labels of the model.
    """
    if real is None or not has_labels(model, real):
        return None
    labels = np.asarray(real.images.labels)
    return torch.from_numpy(labels[np.resize(interleave_labels(labels), num)])  # repeated if needed


def interleave_labels(labels: np.ndarray) -> np.ndarray:
    """Return an order (M,) of label rows (M, K) in which every stretch has about the same shares.

    Equal rows are spread evenly from a random start, so that blocks of images differ by their
    images and not by their classes.
    """
    _, kind, size = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    draws = generator(0, "labels")
    order = torch.randperm(len(labels), generator=draws).numpy()
    starts = torch.rand(len(size), generator=draws).numpy()
    rank = np.empty(len(labels))  # of each row among those like it, in a random order
    by_kind = order[np.argsort(kind[order], kind="stable")]
    rank[by_kind] = np.arange(len(labels)) - np.repeat(np.cumsum(size) - size, size)
    return np.argsort((rank + starts[kind]) / size[kind], kind="stable")


def read_images(path: Path, num: int | None = None) -> Generated:
    """Return the images of a folder, zip or npz, or `num` of them, evenly spaced.

    Raises DataError for fewer images, several sizes and broken files.
    """
    opened = open_comparable(path)
    if opened.skipped:
        raise DataError(
            f"{path.absolute()}: {len(opened.skipped)} of {len(opened) + len(opened.skipped)} "
            f"images are unreadable ({abbreviate(opened.skipped)}). Repair or remove them."
        )
    images = opened.images
    if num is not None and num > len(images):
        raise DataError(
            f"{path.absolute()} has {len(images):,} images, fewer than --num {num:,}. Use fewer."
        )
    images = np.asarray(images if num is None else images[evenly_spaced(len(images), num)])
    info = {"what": str(path.absolute()), "count": len(images)}
    return Generated(images, info, None, fixed_order(len(images)))
