"""The images that are scored: drawn from a model, or found in a folder or file."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fromnoise.data import DataError, ImageSet
from fromnoise.data.errors import abbreviate
from fromnoise.evaluation.features import Progress, nothing
from fromnoise.evaluation.images import evenly, open_given
from fromnoise.evaluation.metrics import any_order
from fromnoise.model.model import Model
from fromnoise.rng import generator

UNLABELLED = "none: the model has none"
NOT_SAID = "none said: the reference does not have the labels of the model"
AS_REFERENCE = "those of the reference images, each about as often as there"


class Generated(NamedTuple):
    """Images, and all that is known of how they came to be."""

    images: np.ndarray  # uint8 (N, C, H, W)
    said: dict[str, Any]  # for JSON
    seconds: float | None  # that drawing took
    blocks: np.ndarray | None = None  # (N,), an order in which stretches are alike; None: theirs


def draw(
    model: Model,
    num: int,
    *,
    labels_of: ImageSet | None = None,
    first_seed: int = 0,
    batch_size: int = 64,
    loaded_from: str = "",
    progress: Progress = nothing,
    **how: Any,
) -> Generated:
    """One image for each of the `num` seeds from `first_seed` on, held in memory.

    labels_of: whose labels a model with labels is asked for, in the order of `spread`. how: as in
    `Model.sampling_plan`.
    """
    plan = model.sampling_plan(**how)
    cond, labels = None, UNLABELLED
    if names := model.spec.label_names:
        labels = NOT_SAID
        if labels_of is not None and labels_of.label_names == names:
            assert labels_of.labels is not None
            labels = AS_REFERENCE
            rows = np.resize(spread(labels_of.labels), num)  # from the start again, if need be
            cond = torch.from_numpy(np.asarray(labels_of.labels)[rows])
    started, parts = time.perf_counter(), []
    for i in range(0, num, batch_size):
        count = min(batch_size, num - i)
        seeds = range(first_seed + i, first_seed + i + count)
        asked = None if cond is None else cond[i : i + count]
        part = model.sample(seeds, batch_size=count, cond=asked, **how)
        parts.append(part.numpy())
        progress(i + count, num)
    if cond is None:  # then nothing guides
        unguided = {"guidance": 1.0, "guidance_interval": None, "guidance_rescale": 0.0}
        plan = plan.model_copy(update=unguided)
    said = {
        "what": "model",
        "count": num,
        "seeds": f"{first_seed}-{first_seed + num - 1}",
        "loaded from": loaded_from,
        **model.spec.weights_info(),
        "precision": model.precision,
        "sampling": plan.model_dump(mode="json"),
        "labels": labels,
        "quantisation": "x_0 rounded to uint8",
    }
    return Generated(np.concatenate(parts), said, time.perf_counter() - started)


def spread(labels: np.ndarray) -> np.ndarray:
    """An order of rows of labels (M, K), int64 (M,), any stretch of which has about their shares.

    Like rows are dealt out evenly over the whole, from a start of their own. So blocks of images
    differ by their images, and not by how often a class fell to them.
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


def found(path: Path, num: int | None = None) -> Generated:
    """The images that `open_given` finds, or `num` of them, evenly spread, as they are.

    Raises DataError where there are fewer, where they have several sizes, and for broken ones.
    """
    opened = open_given(path)
    if opened.skipped:
        raise DataError(
            f"{path.absolute()}: {len(opened.skipped)} of {len(opened) + len(opened.skipped)} "
            f"images cannot be read: {abbreviate(opened.skipped)}; all images are scored, so mend "
            "or remove them"
        )
    images = opened.images
    if num is not None and num > len(images):
        raise DataError(f"{path.absolute()} has {len(images):,} images, and {num:,} are asked for")
    images = np.asarray(images if num is None else evenly(images, num))
    said = {"what": str(path.absolute()), "count": len(images)}
    return Generated(images, said, None, any_order(len(images)))
