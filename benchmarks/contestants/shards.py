"""Sample images in parts, each saved when it is complete."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clock import Clock

SHARD = 256  # images
TIMED = 4  # parts that are timed; the machine may do other work during the rest
IMAGES = "images.npz"


def draw_shards(
    draw: Callable[[int, int], np.ndarray], folder: Path, count: int, *, batch_size: int
) -> dict[str, Any]:
    """Write `count` images, uint8 (N, C, H, W), to folder/images.npz; return count and seconds.

    draw: (index of the first image, number of images) → images. Parts of an earlier attempt are
    reused. The seconds are extrapolated from the first TIMED parts.
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
