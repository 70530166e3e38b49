"""Ancestral sampling: the reverse process of the paper, over any of its times."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule, Time, per_image

Variance = Literal["learned", "small", "large"]
"""The variance of a step: β̃, β, or a learned one between them."""


def step_std(
    prediction: Prediction, schedule: NoiseSchedule, t: Time, s: Time, variance: Variance
) -> Tensor:
    """Return the standard deviation σ of p_θ(x_s | x_t), which broadcasts against x_t.

    `small`: σ² = β̃, right for one fixed x_0; `large`: σ² = β, right for x_0 ~ N(0, I) (section
    3.2); `learned`: log σ² = f log β + (1−f) log β̃, f the prediction's `fraction` (Nichol and
    Dhariwal 2021, arXiv:2102.09672, Eq. 15), or its `log_variance`. That is of the step to t−1; in
    a longer step log σ² exceeds log β̃ by the same amount. β̃, β: `schedule.variances(t, s)`.

    t, s: int or (B,). Raises ValueError for `learned` without a learned variance.
    """
    small, large = schedule.variances(t, s)
    if variance != "learned":
        return per_image({"small": small, "large": large}[variance], prediction.x_t).sqrt()
    if prediction.log_variance is not None:
        longer = (small / schedule.variances(t, t - 1)[0]).log()  # 0 where s = t − 1
        return ((prediction.log_variance + per_image(longer, prediction.x_t)) / 2).exp()
    if prediction.fraction is None:
        raise ValueError(
            "variance is learned, but this network predicts none. Use small or large, or train "
            "with network.learned_variance = true."
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
    """Take a step of Algorithm 2 from t to any earlier s: x_s = μ̃(x_t, x̂_0) + σ z.

    With a schedule and a network, this is all that sampling needs:

        denoise = clamp_x0(Denoiser(network, schedule))  # without clamp_x0, x̂_0 may leave [−1, 1]
        x, x0 = reverse_step(denoise(x, t), schedule, t, t - 1, torch.randn_like(x))

    The mean μ̃ is that of q(x_s | x_t, x_0) at x̂_0 (`NoiseSchedule.posterior`), so it follows a
    clamped x̂_0; σ is `step_std`. z: standard normal, (B,C,H,W), unused in images whose s is 0.
    t, s: int or (B,), 0 ≤ s < t ≤ T. Returns (x_s, x̂_0), both (B,C,H,W).
    """
    x_t, x0 = prediction.x_t, prediction.x0
    mean, _ = schedule.posterior(x0, x_t, t, s)
    std = step_std(prediction, schedule, t, s, variance)
    # x_0 is the mean itself, and 0 · ∞ of a huge learned σ would make it NaN
    if not isinstance(s, Tensor):
        return mean + (std * z if s > 0 else 0), x0
    return mean + torch.where(per_image(s > 0, x_t) > 0, std * z, 0), x0


def ddpm(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    variance: Variance = "small",
) -> Iterator[Step]:
    """Sample by Algorithm 2: `reverse_step` from each time to the next, and then to 0.

    variance: `small`, `large` or `learned`, as in `step_std`.
    """
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        z = noise(t) if s > 0 else torch.zeros_like(x)
        x, x0 = reverse_step(prediction, schedule, t, s, z, variance=variance)
        yield Step(t, s, x, x0)
