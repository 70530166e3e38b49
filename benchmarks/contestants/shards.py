"""Images that are drawn in parts, each kept as soon as it is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clock import Clock

SHARD = 256  # images
TIMED = 4  # parts that are timed; beside the others the machine may do something else
IMAGES = "images.npz"


def draw_shards(
    draw: Callable[[int, int], np.ndarray], folder: Path, count: int, *, batch_size: int
) -> dict[str, Any]:
    """Write `count` images, uint8 (N, C, H, W), to folder/images.npz; the seconds it takes.

    draw: (number of the first image, how many) → as many images. Parts of an earlier attempt are
    not drawn again. The seconds of the first TIMED parts stand for all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, seconds = [], []
    for first in range(0, count, SHARD):
        file = folder / f"{first:06d}.npz"
        if not file.exists():
            _draw_shard(draw, file, first, min(SHARD, count - first), batch_size)
        with np.load(file) as kept:
            parts.append(kept["images"])
            seconds.append(float(kept["seconds"]))
    np.savez(folder / IMAGES, images=np.concatenate(parts))
    timed = sum(map(len, parts[:TIMED]))
    return {"count": count, "seconds": sum(seconds[:TIMED]) * count / timed}


def _draw_shard(
    draw: Callable[[int, int], np.ndarray], file: Path, first: int, count: int, batch_size: int
) -> None:
    clock = Clock()
    batches = [
        draw(i, min(batch_size, first + count - i)) for i in range(first, first + count, batch_size)
    ]
    writing = file.with_suffix(".writing.npz")
    np.savez(writing, images=np.concatenate(batches), seconds=clock.seconds())
    writing.replace(file)
