"""The exponential moving average of the weights, which is what one samples from."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """θ̄ ← d θ̄ + (1−d) θ after every optimiser step, with d = min(decay, (1+n)/(10+n)).

    The n-th update (n = 0, 1, …) thus starts with d = 0.1: a young average forgets the random start
    and an old one has the full decay. `module` is the average, a float32 copy in evaluation mode.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._averages: list[torch.Tensor] = list(self.module.parameters())

    @torch.no_grad()
    def update(self, module: nn.Module, n: int) -> None:
        """Take in the weights of `module`, which has the structure of the one given at first."""
        decay = min(self.decay, (1 + n) / (10 + n))
        average_all = get_ema_multi_avg_fn(decay)  # one kernel for all parameters
        average_all(self._averages, list(module.parameters()), n)
        for average, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(buffer)
