"""The contract of a sampler.

A sampler is a generator `sampler(denoise, schedule, x, times, *, noise, …)` that yields a `Step`
for each of `steps_between(times, schedule)`: from each time t to the next kept time s, never to
t−1, and from the last to s = 0. x: x_T, (B,C,H,W); times: falling, each in {1..T}; noise(t): fresh
noise for the step that leaves t. All else is a function of these, and the last `Step.x` is x_0.

To add one, see CONTRIBUTING.md. Its keyword-only parameters other than `noise` are its options.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule

Noise = Callable[[int], Tensor]
"""t → standard normal noise (B,C,H,W) for the step that leaves t."""


class Step(NamedTuple):
    """One step from t to s: `x` is x_s, `x0` is the x̂_0 predicted from x_t."""

    t: int
    s: int
    x: Tensor
    x0: Tensor


def steps_between(times: Sequence[int], schedule: NoiseSchedule) -> list[tuple[int, int]]:
    """Return (t, s) of every step: from each time to the next, and from the last to s = 0.

    Raises ValueError unless T ≥ t_1 > t_2 > … ≥ 1.
    """
    steps = list(pairwise([*times, 0]))
    for t, s in steps:
        if not schedule.T >= t > s:
            raise ValueError(
                f"times must fall, each in 1..{schedule.T}, but {s} comes after {t}. The 0 of "
                "clean images is added for you."
            )
    return steps
