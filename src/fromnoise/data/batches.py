"""Which images step n sees: a function of (seed, step), so that nothing is stored to resume."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.imageset import ImageSet
from fromnoise.rng import generator


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> np.ndarray:
    """The images of optimiser step `step`, counted from 0: int64 (batch_size,).

    The epochs form one endless line, each a fresh order of all images, and a step takes the next
    `batch_size` of it. So every image is seen once an epoch, also where the batch straddles two
    epochs or is larger than the data set.
    """
    position = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epoch, place = np.divmod(position, num_images)
    indices = np.empty_like(position)
    for e in np.unique(epoch):
        indices[epoch == e] = _order(seed, int(e), num_images)[place[epoch == e]]
    return indices


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return torch.randperm(num_images, generator=generator(seed, epoch, "order")).numpy()


def load_batch(
    data: ImageSet, *, seed: int, step: int, batch_size: int, flip: bool = False
) -> Tensor:
    """The images of one step: uint8 (batch_size,C,H,W). `flip` mirrors half of them, by chance."""
    images = torch.from_numpy(data.images[batch_indices(seed, step, batch_size, len(data))])
    if flip:
        mirrored = torch.rand(batch_size, generator=generator(seed, step, "flip")) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 → float32 in [−1, 1], on the same device."""
    return images.to(torch.float32) / 127.5 - 1
