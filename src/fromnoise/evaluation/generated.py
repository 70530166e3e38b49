"""Generated images of an evaluation: sampled from a model, or read from a folder or file."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fromnoise.config.schema import SamplingConfig
from fromnoise.data import DataError
from fromnoise.data.errors import abbreviate
from fromnoise.evaluation.features import Progress, no_progress
from fromnoise.evaluation.images import RealImages, evenly_spaced, open_comparable
from fromnoise.evaluation.metrics import fixed_order
from fromnoise.model.model import Model
from fromnoise.rng import generator

UNCONDITIONAL = "none: the model is unconditional"
NO_SHARED_LABELS = "none: the reference lacks the labels of the model"
AS_REFERENCE = "those of the reference images, in about the same proportions"


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
    batch_size: int = 64,
    loaded_from: str = "",
    progress: Progress = no_progress,
) -> Generated:
    """Sample one image for each of the `num` seeds from `first_seed` on, held in memory.

    labels_of: a conditional model samples their labels, in the order of `interleave_labels`.
    """
    cond, labels = None, NO_SHARED_LABELS if model.spec.label_names else UNCONDITIONAL
    if has_labels(model, labels_of):
        assert labels_of is not None
        assert labels_of.images.labels is not None
        labels = AS_REFERENCE
        rows = np.resize(interleave_labels(labels_of.images.labels), num)  # repeated if needed
        cond = torch.from_numpy(np.asarray(labels_of.images.labels)[rows])
    started, parts = time.perf_counter(), []
    for i in range(0, num, batch_size):
        rows = slice(i, min(i + batch_size, num))
        seeds = range(first_seed + i, first_seed + rows.stop)
        part = model.sample(
            seeds, config, batch_size=batch_size, cond=None if cond is None else cond[rows]
        )
        parts.append(part.numpy())
        progress(rows.stop, num)
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
    return Generated(np.concatenate(parts), info, time.perf_counter() - started)


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
    images = np.asarray(images if num is None else evenly_spaced(images, num))
    info = {"what": str(path.absolute()), "count": len(images)}
    return Generated(images, info, None, fixed_order(len(images)))
