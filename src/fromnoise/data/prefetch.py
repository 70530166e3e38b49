"""The images of the next step, drawn while this one is being learned from."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

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
