"""DDIM inversion: from an image to the noise from which `ddim` makes it."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers import Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule


def ddim_inversion(
    denoise: Denoise, schedule: NoiseSchedule, x: Tensor, times: Sequence[int]
) -> Iterator[Step]:
    """Invert `ddim` with eta = 0 from x_0 up to x_T: x_u = √ᾱ_u x̂_0 + √(1−ᾱ_u) ε̂.

    Song, Meng and Ermon 2021 (arXiv:2010.02502): Eq. 12 without noise is an Euler step of the ODE
    in Eq. 14, whose steps may lead to more noise too (sections 4.3 and 5.4). `ddim` on the result
    returns to x up to an error that falls as 1/steps.

    From t to the next kept time u > t, x̂_0 and ε̂ are predicted from x_t. No network is trained at
    t = 0, so the first step takes ε̂ at the first kept time, and x itself as x̂_0.

    x: x_0, (B,C,H,W); times: as for a sampler, falling, each in {1..T}, visited in reverse. A
    `Step` leads from t to s = u > t. Raises ValueError unless the times fall.
    """
    for u, t in reversed(steps_between(times, schedule)):
        prediction = denoise(x, t or u)
        x0 = prediction.x0 if t > 0 else x
        a_u = schedule.alpha_bar[u].item()
        x = a_u**0.5 * x0 + (1 - a_u) ** 0.5 * prediction.eps
        yield Step(t, u, x, x0)
