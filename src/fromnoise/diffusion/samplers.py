"""From noise to image: each sampler is a generator, so that the caller's `for` sees every step.

All of them walk a falling list of times and step from each kept time t to the next kept time s
(never to t−1), the last one to s = 0; so 7 steps and 53 steps are as right as all T.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.schedule import NoiseSchedule, per_image

Noise = Callable[[int], Tensor]
"""t → standard normal noise (B,C,H,W) for the step that leaves t."""


class Step(NamedTuple):
    """One step from t to s: `x` is x_s, `x0` is the x̂_0 that was predicted from x_t."""

    t: int
    s: int
    x: Tensor
    x0: Tensor


def ddpm(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    variance: Literal["small", "large"] = "small",
) -> Iterator[Step]:
    """Ancestral sampling (Algorithm 2): x_s = μ̃(x_t, x̂_0) + √variance · z, and no z at the end.

    variance: `small` is that of q(x_s | x_t, x_0), β̃ of Eq. 7, right for one fixed x_0;
    `large` is β = 1 − ᾱ_t/ᾱ_s, right for x_0 ~ N(0, 1) (section 3.2).
    x: x_T, (B,C,H,W); times: falling, each in {1..T}.
    """
    for t, s in pairwise([*times, 0]):
        x0 = denoise(x, t).x0
        x, posterior_variance = schedule.posterior(x0, x, t, s)
        if s > 0:
            beta = 1 - schedule.alpha_bar[t] / schedule.alpha_bar[s]
            chosen = per_image(beta, x) if variance == "large" else posterior_variance
            x = x + chosen.sqrt() * noise(t)
        yield Step(t, s, x, x0)


def ddim(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    eta: float = 0.0,
) -> Iterator[Step]:
    """x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−ς²) ε̂ + ς z, ς² = η² (1−ᾱ_s)/(1−ᾱ_t) (1−ᾱ_t/ᾱ_s).

    Song, Meng and Ermon 2021 (arXiv:2010.02502), Eqs. 12 and 16. eta = 0 is deterministic, eta = 1
    has the variance of `ddpm` with `small`. x: x_T, (B,C,H,W); times: falling, each in {1..T}.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, not {eta}")
    for t, s in pairwise([*times, 0]):
        prediction = denoise(x, t)
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        added = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        x = a_s**0.5 * prediction.x0 + max(1 - a_s - added, 0.0) ** 0.5 * prediction.eps
        if added > 0:
            x = x + added**0.5 * noise(t)
        yield Step(t, s, x, prediction.x0)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {"ddpm": ddpm, "ddim": ddim}


def leading(T: int, steps: int) -> list[int]:
    """1, 1+⌊T/n⌋, 1+2⌊T/n⌋, …: ends at t = 1, starts below T. Falling, `steps` times."""
    return [1 + i * (T // steps) for i in reversed(range(steps))]


def trailing(T: int, steps: int) -> list[int]:
    """T, T−T/n, T−2T/n, … rounded: starts at t = T, where the noise is. Falling."""
    return [round(T - i * T / steps) for i in range(steps)]


def linspace(T: int, steps: int) -> list[int]:
    """From T to 1, both kept, evenly spaced and rounded. Falling."""
    return torch.linspace(T, 1, steps, dtype=torch.float64).round().int().tolist()


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
}


def sampling_times(T: int, steps: int, spacing: str = "trailing") -> list[int]:
    """The times of {1..T} that a sampler visits, falling. ValueError unless 1 ≤ steps ≤ T."""
    if not 1 <= steps <= T:
        raise ValueError(f"steps must lie between 1 and T = {T}, not {steps}")
    return SPACINGS[spacing](T, steps)
