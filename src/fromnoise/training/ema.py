"""The exponential moving average of the weights, which is what one samples from."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def take_in(average: nn.Module, module: nn.Module, decay: float) -> None:
    """θ̄ ← d θ̄ + (1−d) θ, d = `decay`, for every parameter; buffers are copied.

    The two have the same structure.
    """
    average_all = get_ema_multi_avg_fn(decay)  # one kernel for all parameters
    average_all(list(average.parameters()), list(module.parameters()), 0)
    for averaged, buffer in zip(average.buffers(), module.buffers(), strict=True):
        averaged.copy_(buffer)


class EMA:
    """θ̄ ← d θ̄ + (1−d) θ after every optimiser step, with d = min(decay, (1+n)/(10+n)).

    The n-th update (n = 0, 1, …) thus starts with d = 0.1: a young average forgets the random start
    and an old one has the full decay. `module` is the average, a float32 copy in evaluation mode.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def update(self, module: nn.Module, n: int) -> None:
        """Take in the weights of `module`, which has the structure of the one given at first."""
        take_in(self.module, module, min(self.decay, (1 + n) / (10 + n)))
