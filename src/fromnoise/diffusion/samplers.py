"""From noise to image: each sampler is a generator, so that the caller's `for` sees every step.

All of them walk a falling list of times and step from each kept time t to the next kept time s
(never to t−1), the last one to s = 0; so 7 steps and 53 steps are as right as all T.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedule import NoiseSchedule, Time, per_image

Variance = Literal["learned", "small", "large"]
"""How wide a step is: β̃, β, or what the network has learned between them."""

Noise = Callable[[int], Tensor]
"""t → standard normal noise (B,C,H,W) for the step that leaves t."""


class Step(NamedTuple):
    """One step from t to s: `x` is x_s, `x0` is the x̂_0 that was predicted from x_t."""

    t: int
    s: int
    x: Tensor
    x0: Tensor


def step_std(
    prediction: Prediction, schedule: NoiseSchedule, t: Time, s: Time, variance: Variance
) -> Tensor:
    """The standard deviation σ of p_θ(x_s | x_t), which broadcasts against x_t.

    `small`: σ² = β̃, right for one fixed x_0; `large`: σ² = β, right for x_0 ~ N(0, I) (section
    3.2); `learned`: log σ² = f log β + (1−f) log β̃, f the prediction's `fraction` (Nichol and
    Dhariwal 2021, arXiv:2102.09672, Eq. 15). β̃ and β are `schedule.variances(t, s)`.

    t, s: int or (B,). Raises ValueError for `learned` where nothing was learned.
    """
    small, large = schedule.variances(t, s)
    match variance:
        case "small":
            return per_image(small, prediction.x_t).sqrt()
        case "large":
            return per_image(large, prediction.x_t).sqrt()
        case "learned":
            if prediction.fraction is None:
                raise ValueError(
                    "variance is learned, but this network predicts none; use small or large, or "
                    "train one with learned_variance = true"
                )
            low = per_image(small.log(), prediction.x_t)
            span = per_image((large / small).log(), prediction.x_t)
            return ((low + prediction.fraction * span) / 2).exp()


def reverse_step(
    prediction: Prediction,
    schedule: NoiseSchedule,
    t: Time,
    s: Time,
    z: Tensor,
    *,
    variance: Variance = "small",
) -> tuple[Tensor, Tensor]:
    """One step of Algorithm 2 from t to any earlier s: x_s = μ̃(x_t, x̂_0) + σ z, and x̂_0.

    With a schedule, a network and noise at hand this is all that sampling needs:

        denoise = clamp_x0(Denoiser(network, schedule))  # without clamp_x0, x̂_0 may leave [−1, 1]
        x, x0 = reverse_step(denoise(x, t), schedule, t, t - 1, torch.randn_like(x))

    The mean μ̃ is that of q(x_s | x_t, x_0) at x̂_0 (`NoiseSchedule.posterior`), so it follows a
    clamped x̂_0; σ is `step_std`. z: standard normal, (B,C,H,W), unused in images whose s is 0.
    t, s: int or (B,), 0 ≤ s < t ≤ T. Returns (x_s, x̂_0), both (B,C,H,W).
    """
    x_t, x0 = prediction.x_t, prediction.x0
    mean, _ = schedule.posterior(x0, x_t, t, s)
    std = step_std(prediction, schedule, t, s, variance)
    # x_0 itself is the mean: nothing is added, not even 0 · ∞ where a learned σ is huge.
    noisy = per_image(torch.as_tensor(s) > 0, x_t) > 0
    return mean + torch.where(noisy, std * z, 0), x0


def ddpm(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    variance: Variance = "small",
) -> Iterator[Step]:
    """Ancestral sampling (Algorithm 2): `reverse_step` from each time to the next, and then to 0.

    variance: `small`, `large` or `learned`, as in `step_std`.
    x: x_T, (B,C,H,W); times: falling, each in {1..T}.
    """
    for t, s in pairwise([*times, 0]):
        prediction = denoise(x, t)
        z = noise(t) if s > 0 else torch.zeros_like(x)
        x, x0 = reverse_step(prediction, schedule, t, s, z, variance=variance)
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
