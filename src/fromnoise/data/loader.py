"""Load the batch of each optimiser step, and prefetch the next one for a GPU."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.dataset import ImageSet
from fromnoise.data.levels import BYTES, Levels
from fromnoise.rng import BatchDraws, permuted


def image_indices(draws: BatchDraws, num_images: int) -> np.ndarray:
    """Return the indices of the images of a step, counted from 0: int64 (B,).

    The epochs, each a new permutation of all images, are concatenated to one endless sequence. Each
    step takes the next `batch_size` indices of it. So every image occurs once per epoch, even if a
    batch spans two epochs or is larger than the data set.
    """
    position = draws.step * draws.batch_size + draws.positions
    epoch, offset = np.divmod(position, num_images)
    indices = np.empty_like(position)
    for e in np.unique(epoch):
        now = epoch == e
        indices[now] = permuted(offset[now], num_images, draws.seed, e, "order")
    return indices


def load_batch(data: ImageSet, draws: BatchDraws, *, flip: bool = False) -> Tensor:
    """Load the images of a step, (B, C, H, W). `flip` mirrors each with p = 0.5.

    They are uint8, for `to_float` on the device; of more depth, float32 in [−1, 1] already.
    """
    images = data.images[image_indices(draws, len(data))]  # a copy
    if flip:  # in place with numpy: 5 times as fast as torch.where
        mirrored = draws.uniform("flip")[:, 0] < 0.5
        images[mirrored] = images[mirrored][..., ::-1]
    loaded = torch.from_numpy(images)
    return loaded if data.levels.depth == 8 else to_float(loaded, data.levels)


def load_conditions(
    data: ImageSet, draws: BatchDraws, *, dropout: float, label_dropout: float
) -> Tensor:
    """Load the labels of the same images: float32 (B, K) in {−1, 0, +1}; K ≥ 1.

    With probability `dropout`, all labels of an image are set to 0: the unconditional case. With
    probability `label_dropout`, each label is kept or set to 0 independently. The probabilities of
    keeping a present and an absent label are drawn per image, uniformly in [0, 1]. So the network
    learns prompts of few and of many labels, and "red cube" without a list of absent labels.
    """
    assert data.labels is not None
    labels = data.labels[image_indices(draws, len(data))]
    kept, partial, of_present, of_absent, *each = draws.uniform("labels", 4 + labels.shape[1]).T
    share = np.where(labels > 0, of_present[:, None], of_absent[:, None])
    selected = (partial >= label_dropout)[:, None] | (np.stack(each, axis=1) < share)
    return torch.from_numpy((labels * selected * (kept >= dropout)[:, None]).astype(np.float32))


def to_float(images: Tensor, levels: Levels = BYTES) -> Tensor:
    """Convert stored values to float32 in [−1, 1], on the same device: v/127.5 − 1 for uint8.

    With the default levels, floats are in [−1, 1] already and stay.
    """
    if levels.depth != 8:
        half = (levels.high - levels.low) / 2
        return images.to(torch.float32, copy=True).sub_(levels.low).div_(half).sub_(1)
    if images.is_floating_point():
        return images
    return images.to(torch.float32).div_(127.5).sub_(1)  # in place: one buffer, not three


Batch = tuple[Tensor, Tensor | None]  # x_0 and ε
LoadBatch = Callable[[int], Batch]  # a function of the step alone


@contextmanager
def feed(load: LoadBatch, device: torch.device) -> Iterator[LoadBatch]:
    """Yield `load` for a CPU. For a GPU, also start load(step + 1) in a background thread.

    A CPU that trains has no idle core to prefetch on, and loading is at most 0.4 % of its step.

    For a GPU, `load` must be thread-safe, and may be called for a step that is never used. An
    exception in `load` is raised by the call for that step. The thread has ended when the context
    exits. For CUDA the batches are in page-locked memory, from which copies are asynchronous.
    """
    if device.type == "cpu":
        yield load
        return

    def pinned(step: int) -> Batch:
        x0, eps = load(step)
        if device.type != "cuda":
            return x0, eps
        return x0.pin_memory(), None if eps is None else eps.pin_memory()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as thread:
        started: dict[int, Future[Batch]] = {}

        def get(step: int) -> Batch:
            future = started.pop(step, None) or thread.submit(pinned, step)
            started.clear()
            started[step + 1] = thread.submit(pinned, step + 1)
            return future.result()

        yield get
