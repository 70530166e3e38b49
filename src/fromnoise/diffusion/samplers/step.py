"""What every sampler takes, and what it yields."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Noise = Callable[[int], Tensor]
"""t → standard normal noise (B,C,H,W) for the step that leaves t."""


class Step(NamedTuple):
    """One step from t to s: `x` is x_s, `x0` is the x̂_0 that was predicted from x_t."""

    t: int
    s: int
    x: Tensor
    x0: Tensor
