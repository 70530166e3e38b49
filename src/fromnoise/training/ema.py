"""The exponential moving average (EMA) of the weights. By default, a model samples from it."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Update θ̄ ← d θ̄ + (1−d) θ, d = `decay`, for every parameter. Copy the buffers.

    The two modules have the same structure.
    """
    average_all = get_ema_multi_avg_fn(decay)  # one kernel for all parameters
    average_all(list(average.parameters()), list(module.parameters()), 0)
    for averaged, buffer in zip(average.buffers(), module.buffers(), strict=True):
        averaged.copy_(buffer)


class EMA:
    """The EMA of a module: θ̄ ← d θ̄ + (1−d) θ, with d = min(decay, (1+n)/(10+n)).

    n = 0, 1, … counts the updates, so d starts at 0.1: the average soon forgets the random initial
    weights, and later has the full decay. `module` is the average, a float32 copy in eval mode.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def update(self, module: nn.Module, n: int) -> None:
        """Do update n with the weights of `module`, which has the structure of the initial one."""
        update_average(self.module, module, min(self.decay, (1 + n) / (10 + n)))
