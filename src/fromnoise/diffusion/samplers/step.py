"""What every sampler takes, and what it yields."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule

Noise = Callable[[int], Tensor]
"""t → standard normal noise (B,C,H,W) for the step that leaves t."""


class Step(NamedTuple):
    """One step from t to s: `x` is x_s, `x0` is the x̂_0 that was predicted from x_t."""

    t: int
    s: int
    x: Tensor
    x0: Tensor


def steps_between(times: Sequence[int], schedule: NoiseSchedule) -> list[tuple[int, int]]:
    """(t, s) of every step: from each time to the next one, and from the last to s = 0.

    Raises ValueError unless T ≥ t_1 > t_2 > … ≥ 1.
    """
    steps = list(pairwise([*times, 0]))
    for t, s in steps:
        if not schedule.T >= t > s:
            raise ValueError(
                f"times must fall, each in 1..{schedule.T}, without the 0 of clean images, which "
                f"is added to them; here {s} comes after {t}"
            )
    return steps
