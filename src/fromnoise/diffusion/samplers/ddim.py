"""DDIM: sampling with any amount of noise in a step, by default none."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule


def ddim(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    eta: float = 0.0,
) -> Iterator[Step]:
    """Sample by x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−ς²) ε̂ + ς z, ς² = η² (1−ᾱ_s)/(1−ᾱ_t) (1−ᾱ_t/ᾱ_s).

    Song, Meng and Ermon 2021 (arXiv:2010.02502), Eqs. 12 and 16. eta = 0 is deterministic, eta = 1
    has the variance of `ddpm` with `small`. x: x_T, (B,C,H,W); times: falling, each in {1..T}.
    Raises ValueError unless 0 ≤ eta ≤ 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, not {eta}")
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        added = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        x = a_s**0.5 * prediction.x0 + max(1 - a_s - added, 0.0) ** 0.5 * prediction.eps
        if added > 0:
            x = x + added**0.5 * noise(t)
        yield Step(t, s, x, prediction.x0)
