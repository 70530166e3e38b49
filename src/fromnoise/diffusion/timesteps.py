"""Rules for the timesteps of a sampler: functions (schedule, steps) → `steps` of the T times.

The times fall strictly, each in {1..T}; `sampling_timesteps` checks that 1 ≤ steps ≤ T. Rules
have no options. To add one, see CONTRIBUTING.md.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule


def leading(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return 1, 1+⌊T/n⌋, 1+2⌊T/n⌋, …, falling: ends at t = 1, starts below T unless n = T.

    With few steps, or n that does not divide T, the first time may have much of the image left,
    although x_T is pure noise: n = 1 starts at t = 1, and n = 501 of T = 1000 at t = 501.
    """
    return [1 + i * (schedule.T // steps) for i in reversed(range(steps))]


def trailing(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return T, T−T/n, T−2T/n, …, rounded: starts at t = T, as x_T does."""
    return [round(schedule.T - i * schedule.T / steps) for i in range(steps)]


def linspace(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return times from T to 1, both included, evenly spaced and rounded."""
    return _evenly(schedule.T, 1, steps).round().int().tolist()


def quadratic(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return t = 1 + (T−1) u², u evenly spaced from 1 to 0: dense near the image.

    Song, Meng and Ermon 2021 (arXiv:2010.02502), appendix D.2, there c·i² for some c.
    """
    u = _evenly(1, 0, steps)
    return _apart((1 + (schedule.T - 1) * u.square()).round(), schedule.T)


def log_snr(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return the times whose log SNR is nearest to evenly spaced values.

    Lu et al. 2022 (arXiv:2206.00927), whose λ is half the log SNR.
    """
    table = schedule.alpha_bar[1:].log() - (1 - schedule.alpha_bar[1:]).log()  # (T,)
    return _nearest(table, steps)


def karras(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return the times whose σ/α is nearest to (a + u (b − a))^ρ, ρ = 7, a^ρ at T, b^ρ at 1.

    Karras et al. 2022 (arXiv:2206.00364), Eq. 5; their σ is σ/α = √((1−ᾱ_t)/ᾱ_t) here.
    """
    return _nearest(_noise_to_image(schedule) ** (1 / 7), steps)


def karras80(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return the times of `karras` from σ/α = 80 on, as in the paper, instead of from T.

    With the cosine schedule, whose σ/α at T is 20,000 or ∞, most times of `karras` lie above 80.
    The sampler begins with noise alone, though x has 1/80 of the image there. Where the schedule
    ends below 80, or there are too few times below it, the times reach up to T.
    """
    noise = _noise_to_image(schedule)
    first = schedule.T if noise[-1] <= 80 else int((noise - 80).abs().argmin()) + 1
    return _nearest(noise ** (1 / 7), steps, first)


TIMESTEPS: dict[str, Callable[[NoiseSchedule, int], list[int]]] = {
    each.__name__: each
    for each in (leading, trailing, linspace, quadratic, log_snr, karras, karras80)
}


def sampling_timesteps(
    schedule: NoiseSchedule, steps: int, rule: str | Sequence[int] = "trailing"
) -> list[int]:
    """Return the times of {1..T} that a sampler visits, falling.

    rule: a name in TIMESTEPS, or the times themselves. Raises ValueError for an unknown name,
    unless 1 ≤ steps ≤ T, and for a list of another length or without T ≥ t_1 > t_2 > … ≥ 1.
    """
    if not isinstance(rule, str):
        times = [int(t) for t in rule]
        if len(times) != steps:
            raise ValueError(f"timesteps lists {len(times)} times, but steps = {steps}")
        if not all(t > s for t, s in pairwise([schedule.T + 1, *times, 0])):
            raise ValueError(f"timesteps must fall, each in 1..{schedule.T}, not {times}")
        return times
    if rule not in TIMESTEPS:
        raise ValueError(f"timesteps {rule!r} is unknown; known: {', '.join(TIMESTEPS)}")
    if not 1 <= steps <= schedule.T:
        raise ValueError(f"steps must lie between 1 and T = {schedule.T}, not {steps}")
    return TIMESTEPS[rule](schedule, steps)


def _noise_to_image(schedule: NoiseSchedule) -> Tensor:
    """Return σ/α at 1 … T, (T,): infinite at T if ᾱ_T = 0."""
    return ((1 - schedule.alpha_bar[1:]) / schedule.alpha_bar[1:]).sqrt()


def _evenly(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)


def _nearest(table: Tensor, steps: int, first: int | None = None) -> list[int]:
    """Return `first`, then the t whose table[t−1] is nearest to each of evenly spaced values.

    first: T by default. If ᾱ_T is 0, table[T−1] is infinite, and the values are spaced from T−1 on.
    """
    T = len(table)
    first = first or T
    start = first if table[first - 1].isfinite() else first - 1
    values = _evenly(table[start - 1].item(), table[0].item(), steps)  # (n,)
    # one by one: a table of all differences of 10,000 times takes a gigabyte
    times = torch.stack([(table[:start] - value).abs().argmin() for value in values]) + 1
    times[0] = first
    return _apart(times, max(first, steps))


def _apart(times: Tensor, T: int) -> list[int]:
    """Return distinct falling times in {1..T}, each moved as little as possible."""
    rising = [int(t) for t in times.flip(0)]
    for i in range(1, len(rising)):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    count = len(rising)
    return [min(t, T - (count - 1 - i)) for i, t in enumerate(rising)][::-1]
