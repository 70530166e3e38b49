"""Images of an evaluation: real ones of a run or folder, generated ones of a model or folder."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.config.schema import Data, SamplingConfig
from fromnoise.data import DataError, ImageSet, SeveralSizes, detect_source, open_images
from fromnoise.data.errors import abbreviate
from fromnoise.evaluation.copies import evenly_spaced
from fromnoise.evaluation.features import Progress, no_progress
from fromnoise.evaluation.metrics import fixed_order
from fromnoise.model.model import Model, load
from fromnoise.model.sampling import with_guidance
from fromnoise.model.spec import Weights
from fromnoise.rng import generator

SEEDED = re.compile(r"\d{6,}(-.*)?\.png")  # a sample, named by its seed
RECIPE_FILE = "recipe.yaml"
BATCH_SIZE = 64  # images sampled at a time


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
        training = _open_split(data, data.split)
    except (ConfigError, DataError) as error:  # the recipe is damaged, or the images are gone
        return RunImages(reason=f"the training images are not available: {error}")
    try:
        held_out = _open_split(data, "test") if data.split != "test" else None
    except DataError:  # most sources have no test split
        held_out = None
    return RunImages(training, held_out)


def _open_split(data: Data, split: str) -> RealImages:
    options = data.model_dump(exclude={"source", "path", "flip", "labels", "split"})
    images = open_images(data.source, data.path, split=split, **options)
    return RealImages(images, f"{data.source}, {split}")


def open_comparable(path: Path, *, named: str | None = None, **options: Any) -> ImageSet:
    """Open the images of a folder, zip or npz; of a folder of `fromnoise sample`, the samples.

    named: see `detect_source`. options: see `open_images`.
    Raises DataError, which names a file, for images of several sizes if no size is set.
    """
    source = detect_source(path, named=named)
    only = samples_in(path) if source == "folder" else None
    try:
        return open_images(source, path, only=only, **options)
    except SeveralSizes as error:
        raise DataError(
            f"{path.absolute()}: {error.sizes}. Images are compared unchanged: bring them to one "
            "size, or remove the others."
        ) from error


def samples_in(folder: Path) -> list[str] | None:
    """Return the names of the samples that `fromnoise sample` wrote into a folder, or None.

    The folder may also hold a grid, the noise and a strip. The first readable file with the name
    of a sample decides, by its metadata.
    """
    folder = folder.expanduser()
    names = sorted(file.name for file in folder.iterdir() if SEEDED.fullmatch(file.name))
    for name in names:
        try:
            with Image.open(folder / name) as image:
                sampled = image.info.get("software") == "fromnoise" and "seed" in image.info
        except OSError:  # a broken file is named when all are read
            continue
        return names if sampled else None
    return None


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
    cond, labels = None, "none: the model is unconditional"
    if model.spec.label_names:
        labels = "none: the reference lacks the labels of the model"
    if labels_of is not None and has_labels(model, labels_of):
        labels = "those of the reference images, in about the same proportions"
        rows_of_labels = np.asarray(labels_of.images.labels)
        order = np.resize(interleave_labels(rows_of_labels), num)  # repeated if needed
        cond = torch.from_numpy(rows_of_labels[order])
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
        images.append(model.sample(seeds[rows], config, batch_size=batch_size, cond=of_rows))
        progress(rows.stop, len(seeds))
    return torch.cat(images).numpy()


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
            f"{path.absolute()} has {len(images):,} images, fewer than --num-images {num:,}. "
            "Use fewer."
        )
    images = np.asarray(images if num is None else images[evenly_spaced(len(images), num)])
    info = {"what": str(path.absolute()), "count": len(images)}
    return Generated(images, info, None, fixed_order(len(images)))
