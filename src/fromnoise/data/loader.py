"""Which images step n sees, and the next batch loaded while a GPU is at work."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.dataset import ImageSet
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
    images = data.images[batch_indices(seed, step, batch_size, len(data))]  # a copy
    if flip:  # in place and by numpy: a fifth of the time of torch.where
        mirrored = (torch.rand(batch_size, generator=generator(seed, step, "flip")) < 0.5).numpy()
        images[mirrored] = images[mirrored][..., ::-1]
    return torch.from_numpy(images)


def load_conditions(
    data: ImageSet,
    *,
    seed: int,
    step: int,
    batch_size: int,
    dropout: float,
    label_dropout: float = 0.0,
) -> Tensor:
    """The labels of the same images: float32 (batch_size, K) in {−1, 0, +1}; K ≥ 1.

    Each image loses all its labels with probability `dropout`, so that the network learns the empty
    condition as often as that, however many labels there are. With probability `label_dropout` it
    says only a part: each label is then kept by a draw of its own. The shares of kept labels, one
    of the present and one of the absent, are uniform in [0, 1] for this image, so that the network
    learns prompts of few labels as well as of many, and "red cube" without a list of what is not.
    """
    assert data.labels is not None
    labels = torch.from_numpy(data.labels[batch_indices(seed, step, batch_size, len(data))])
    draws = generator(seed, step, "condition")
    kept = torch.rand(batch_size, 1, generator=draws) >= dropout
    partial = torch.rand(batch_size, 1, generator=draws) < label_dropout
    of_present, of_absent = torch.rand(2, batch_size, 1, generator=draws)
    share = torch.where(labels > 0, of_present, of_absent)
    said = ~partial | (torch.rand(labels.shape, generator=draws) < share)
    return labels.to(torch.float32) * kept * said


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 → float32 in [−1, 1], on the same device."""
    return images.to(torch.float32).div_(127.5).sub_(1)  # in place: one buffer and not three


Drawn = tuple[Tensor, Tensor]  # x_0 and ε
Draw = Callable[[int], Drawn]  # of one step: a function of its number alone


def feed(draw: Draw, device: torch.device) -> AbstractContextManager[Draw]:
    """`draw`, in the way that suits the device: ahead and pinned for a GPU, as it is on a CPU.

    A CPU that trains has no idle core to draw on, and drawing is at most 0.4 % of its step.
    """
    if device.type == "cpu":
        return nullcontext(draw)
    return ahead(draw, pin=device.type == "cuda")


@contextmanager
def ahead(draw: Draw, *, pin: bool = False) -> Iterator[Draw]:
    """Inside the `with`: `draw`, which after step n begins with n + 1 in a thread of its own.

    So it must be safe in a thread, and may be called for a step that nobody asks for. pin: into
    page-locked memory, from which copies to a GPU need not be waited for. What `draw` raises is
    raised where that step is asked for. At the end the thread has ended.
    """

    def drawn(step: int) -> Drawn:
        x0, eps = draw(step)
        return (x0.pin_memory(), eps.pin_memory()) if pin else (x0, eps)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as thread:
        begun: dict[int, Future[Drawn]] = {}

        def of(step: int) -> Drawn:
            this = begun.pop(step, None) or thread.submit(drawn, step)
            begun.clear()
            begun[step + 1] = thread.submit(drawn, step + 1)
            return this.result()

        yield of
