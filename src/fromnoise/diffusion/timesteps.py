"""Which of the T times a sampler visits: `steps` of them, falling, each in {1..T}."""

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule

KARRAS_RHO = 7.0


def leading(schedule: NoiseSchedule, steps: int) -> list[int]:
    """1, 1+⌊T/n⌋, 1+2⌊T/n⌋, …: ends at t = 1, and starts below T unless n = T.

    With few steps, or with n that does not divide T, it starts where the image is still seen,
    though x_T is pure noise: n = 1 starts at t = 1, and n = 501 of T = 1000 at t = 501.
    """
    return [1 + i * (schedule.T // steps) for i in reversed(range(steps))]


def trailing(schedule: NoiseSchedule, steps: int) -> list[int]:
    """T, T−T/n, T−2T/n, … rounded: starts at t = T, where the noise is."""
    return [round(schedule.T - i * schedule.T / steps) for i in range(steps)]


def linspace(schedule: NoiseSchedule, steps: int) -> list[int]:
    """From T to 1, both kept, evenly spaced and rounded."""
    return _evenly(schedule.T, 1, steps).round().int().tolist()


def quadratic(schedule: NoiseSchedule, steps: int) -> list[int]:
    """t = 1 + (T−1) u², u evenly spaced from 1 to 0: dense near the image.

    Song, Meng and Ermon 2021 (arXiv:2010.02502), appendix D.2, there c·i² for some c.
    """
    u = _evenly(1, 0, steps)
    return _apart((1 + (schedule.T - 1) * u.square()).round(), schedule.T)


def log_snr(schedule: NoiseSchedule, steps: int) -> list[int]:
    """The times whose log SNR is nearest to evenly spaced ones.

    Lu et al. 2022 (arXiv:2206.00927), whose λ is half of it.
    """
    table = schedule.alpha_bar[1:].log() - (1 - schedule.alpha_bar[1:]).log()  # (T,)
    return _nearest(table, steps)


def karras(schedule: NoiseSchedule, steps: int) -> list[int]:
    """The times whose σ/α is nearest to (a + u (b − a))^ρ, a^ρ and b^ρ those of T and 1, ρ = 7.

    Karras et al. 2022 (arXiv:2206.00364), Eq. 5; their σ is σ/α = √((1−ᾱ_t)/ᾱ_t) here.
    """
    noise = ((1 - schedule.alpha_bar[1:]) / schedule.alpha_bar[1:]).sqrt()  # (T,)
    return _nearest(noise ** (1 / KARRAS_RHO), steps)


TIMESTEPS: dict[str, Callable[[NoiseSchedule, int], list[int]]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "karras": karras,
}


def sampling_timesteps(
    schedule: NoiseSchedule, steps: int, timesteps: str = "trailing"
) -> list[int]:
    """The times of {1..T} that a sampler visits, falling. ValueError unless 1 ≤ steps ≤ T.

    An unknown timesteps is one too.
    """
    if timesteps not in TIMESTEPS:
        raise ValueError(f"timesteps {timesteps!r} is unknown; known: {', '.join(TIMESTEPS)}")
    if not 1 <= steps <= schedule.T:
        raise ValueError(f"steps must lie between 1 and T = {schedule.T}, not {steps}")
    return TIMESTEPS[timesteps](schedule, steps)


def _evenly(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)


def _nearest(table: Tensor, steps: int) -> list[int]:
    """T first; then the t whose table[t−1] is nearest to each of evenly spaced values.

    Where nothing is left of the image at T, its value is infinite, and the timesteps begins at T−1.
    """
    T = len(table)
    start = T if table[-1].isfinite() else T - 1
    wanted = _evenly(table[start - 1].item(), table[0].item(), steps)  # (n,)
    # one after the other: a table of all differences of 10,000 times would take a gigabyte
    times = torch.stack([(table[:start] - value).abs().argmin() for value in wanted]) + 1
    times[0] = T
    return _apart(times, T)


def _apart(times: Tensor, T: int) -> list[int]:
    """Falling times, each moved as little as it takes that no two of {1..T} are the same."""
    rising = [int(t) for t in times.flip(0)]
    for i in range(1, len(rising)):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    count = len(rising)
    return [min(t, T - (count - 1 - i)) for i, t in enumerate(rising)][::-1]
