"""Fit the recipe `folder` to the images, the time and the machine.

Each choice overrides a value of the recipe, and your own overrides win. Each is logged with its
reason, and recipe.yaml has them all.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fromnoise.config.schema import Recipe
from fromnoise.data import ImageSet
from fromnoise.data.check import typical_side
from fromnoise.data.mirror import OCCURS, mirror_ratio
from fromnoise.model.model import select_device

FITTED = "folder"  # the recipe
FEW = 100  # images; a smaller data set has no held-out images
logger = logging.getLogger("fromnoise")


class Row(NamedTuple):
    """Settings for a device, from a number of core minutes on."""

    device: str
    core_minutes: float  # minutes of training times CPU threads; 0 on a GPU
    size: int  # pixels per side; smaller images keep their size
    settings: Mapping[str, Any]


class Choice(NamedTuple):
    """A setting and the reason for it."""

    key: str
    value: Any
    reason: str


ROWS = (  # the first row that applies is used
    # not measured on a GPU
    Row("cuda", 0, 64, {"network.patch": 2, "network.channels": 64, "training.batch_size": 128}),
    # not measured: the network of the next row, whose levels have the same sizes with patches of 4
    Row("cpu", 240, 64, {"network.patch": 4, "network.channels": 32, "training.batch_size": 32}),
    # 1,906 emoji: better than 64 channels with one block (docs/performance.md, what a recipe sets)
    Row("cpu", 0, 32, {"network.patch": 2, "network.channels": 32, "training.batch_size": 32}),
)


def choices_for(recipe: Recipe, images: ImageSet) -> list[Choice]:
    """Return the settings for these images, the recipe's minutes and this machine."""
    device, threads = select_device(recipe.training.device).type, torch.get_num_threads()
    minutes = (recipe.training.budget or 0) / 60
    work = minutes * threads if device == "cpu" else 0
    row = next(row for row in ROWS if row.device == device and row.core_minutes <= work)
    where = f"{minutes:g} minutes on {threads} CPU threads" if work else f"for {device.upper()}"
    data = recipe.data
    assert data.path is not None
    side = typical_side(data.source, data.path, split=data.split)
    size = min(row.size, side)
    ratio, count = mirror_ratio(images), len(images)
    mirrored = f"mirrored images are {ratio:.2f} times as far from the others"
    return [
        Choice("data.size", size, where if size < side else f"the images have {side} pixels"),
        *(Choice(key, value, where) for key, value in row.settings.items()),
        Choice("data.flip", ratio <= OCCURS, mirrored),
        Choice("data.holdout", "auto" if count >= FEW else None, f"{count:,} images"),
    ]


def log_choices(choices: Sequence[Choice], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Log the choices without an override, and return them by key."""
    replaced = {*overrides, *(key.removesuffix(".name") for key in overrides)}
    chosen = {}
    for key, value, reason in choices:
        if key in replaced or key.partition(".")[0] in replaced:
            continue
        chosen[key] = value
        logger.info("%s = %s: %s", key, "null" if value is None else value, reason)
    return chosen
