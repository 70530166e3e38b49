"""The variational bound on −log p_θ(x_0), in bits per dimension.

    −log p_θ(x_0) ≤ L_T + Σ_{t=2..T} L_{t−1} + L_0                                      (Eq. 5)

`bits_per_dimension` computes all of it, or samples a few of its times.

Every term is a mean over the C·H·W elements of an image, divided by log 2: the bits per pixel and
channel of a code built from the model. Terms have the precision of x_0.

Images must have their 256 levels in [−1, 1], as in all training here. For a model imported with
another `data_range` these numbers have no meaning.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser, Prediction
from fromnoise.diffusion.samplers import Variance, step_std
from fromnoise.diffusion.schedule import NoiseSchedule, Time, per_image

HALF_LEVEL = 1 / 255  # 256 grey levels in [−1, 1] lie 2/255 apart


class BitsPerDimension(NamedTuple):
    """The bound of each image and its terms, in bits per dimension.

    total = L_T + the sum of `terms`, (B,); L_T: (B,); terms: (B,K), each Σ L_{t−1} over the t of
    one of the K `strata`, or an estimate of it. The first is L_0, of the step to the image itself.
    """

    total: Tensor
    L_T: Tensor
    terms: Tensor
    strata: list[range]


def prior_kl(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """Return L_T = KL(q(x_T | x_0) ‖ N(0, I)): bits per dimension, (B,).

    With q(x_T | x_0) = N(√ᾱ_T x_0, 1−ᾱ_T), L_T = ½ (ᾱ_T x_0² − ᾱ_T − log(1−ᾱ_T)). x0: (B,C,H,W).
    """
    a = schedule.alpha_bar[-1]
    nats = (per_image(a, x0) * x0.square() - per_image(a + torch.log1p(-a), x0)) / 2
    return bits(nats)


def bound_term(
    denoiser: Denoiser,
    x0: Tensor,
    eps: Tensor,
    t: Time,
    cond: Tensor | None = None,
    *,
    variance: Variance = "small",
    clamp: bool = False,
) -> Tensor:
    """Return L_{t−1} of Eq. 5 at x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε: bits per dimension, (B,).

    With uniform t and normal ε, T times this is an unbiased estimate of L_0 + Σ L_{t−1}. x0, eps:
    (B,C,H,W), x0 with 256 levels in [−1, 1]; t ∈ {1..T}: int or (B,). clamp keeps x̂_0 in [−1, 1].
    """
    prediction = denoiser(denoiser.schedule.add_noise(x0, eps, t), t, cond)
    if clamp:
        prediction = prediction.with_x0(prediction.x0.clamp(-1, 1))
    return term_of(prediction, denoiser.schedule, x0, t, variance=variance)


def term_of(
    prediction: Prediction,
    schedule: NoiseSchedule,
    x0: Tensor,
    t: Time,
    *,
    variance: Variance = "small",
) -> Tensor:
    """Return L_{t−1} of Eq. 5 for a prediction at (x_t, t): bits per dimension, (B,).

    t ≥ 2: KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)), in closed form, of N(μ̃, β̃) and N(μ, σ²):
        ½ (log σ²/β̃ + β̃/σ² − 1 + (μ̃−μ)²/σ²), where μ is μ̃ with x̂_0 for x_0.
    t = 1: −log p_θ(x_0 | x_1), the grey level under N(x̂_0, σ²) (`log_level`). This step draws no
    noise, so σ is only the width of this density. For `large` it is that of `small`, as in the code
    of Ho et al.: β would be too wide for one image. x0: (B,C,H,W), 256 levels in [−1, 1].
    """
    s = t - 1
    std = step_std(prediction, schedule, t, s, variance)
    least = step_std(prediction, schedule, t, s, "small")
    # μ̃ is linear in x_0 and x_t, so the difference of two means is the mean of the difference.
    shift, _ = schedule.posterior(x0 - prediction.x0, torch.zeros_like(x0), t, s)
    wider = 2 * (std / least).log()  # log σ²/β̃; expm1 keeps the digits of e^−u − 1 + u near 0
    kl = (wider + torch.expm1(-wider) + (shift / std).square()) / 2
    width = std if variance == "learned" else least
    last = per_image(torch.as_tensor(t) == 1, x0) > 0
    # where() discards a value, but 0 · ∞ in its gradient is NaN: replace the mean where unused
    mean, width = torch.where(last, prediction.x0, x0), torch.where(last, width, 1)
    return bits(torch.where(last, -log_level(x0, mean, width), kl))


def log_level(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log mass of N(mean, std²) at the grey level of each element (Eq. 13), in nats.

    Of 256 levels at −1 + 2k/255, a level x owns (x − 1/255, x + 1/255]; the first also owns all
    below it and the last all above, so that the masses add up to 1. x0, mean: (B,C,H,W); std
    broadcasts. Computed in float64 (on MPS, without it, in float32), returned in x0's precision.
    """
    dtype = torch.float32 if x0.device.type == "mps" else torch.float64
    centred, std = x0.to(dtype) - mean.to(dtype), std.to(dtype)
    lower, upper = (centred - HALF_LEVEL) / std, (centred + HALF_LEVEL) / std
    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): on the side where Φ is small, its logarithm keeps every digit.
    mirrored = centred > 0
    a = torch.where(mirrored, -upper, lower)
    b = torch.where(mirrored, -lower, upper)
    log_b = log_cdf(b)
    # with a very large std both ends round to one number, whose log 0 would end the training
    apart = (log_b - log_cdf(a)).clamp(min=torch.finfo(dtype).tiny)
    inside = log_b + torch.log(-torch.expm1(-apart))
    first, last = x0 < -1 + HALF_LEVEL, x0 > 1 - HALF_LEVEL
    outside = log_cdf(torch.where(first, upper, -lower))
    return torch.where(first | last, outside, inside).to(x0.dtype)


def log_cdf(z: Tensor) -> Tensor:
    """Return log Φ(z) = log(erfcx(−z/√2)/2) − z²/2, erfcx(y) = exp(y²) erfc(y). Any shape.

    torch.special.log_ndtr is equal, but MPS lacks it, and rounding ruins its gradient far below 0.
    """
    negative, y = z < 0, z / math.sqrt(2)
    below, above = torch.where(negative, -y, 0), torch.where(negative, 0, y)
    left = (torch.special.erfcx(below) / 2).log() - below.square()
    right = torch.log1p(-torch.erfc(above) / 2)  # where erfcx(−z/√2) would overflow
    return torch.where(negative, left, right)


@torch.no_grad()
def bits_per_dimension(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    noise: Callable[[Tensor], Tensor],
    uniform: Tensor | None = None,
    variance: Variance = "small",
    clamp: bool = True,
) -> BitsPerDimension:
    """Compute the whole bound of Eq. 5 for each image, with one x_t at each t ∈ {1..T}.

    This evaluates the network T times. With `uniform` it is estimated, without bias, from K draws:

        Σ_{t∈S} L_{t−1} = |S| · E L_{τ−1}, τ uniform in S,

    with one τ for each image and each of the K `strata` S. The first is t = 1: L_0 does not scale
    like the other terms, and is always included. This evaluates the network K times. Each image
    draws its own τ, so totals are independent, and the mean of many images covers each stratum.

    x0: (B,C,H,W), 256 levels in [−1, 1]. noise(t) is the standard normal ε, like x0, of x_t for t:
    (B,), on the CPU. uniform: (B,K), uniform draws from [0, 1), the position of τ in each stratum,
    with K as `strata` allows. clamp keeps x̂_0 in [−1, 1], the range of images.
    """
    schedule = denoiser.schedule
    if uniform is None:
        uniform = torch.zeros(len(x0), schedule.T)
    parts, terms = strata(schedule, uniform.shape[1]), []
    for part, u in zip(parts, uniform.double().cpu().unbind(dim=1), strict=True):
        t = part.start + (u * len(part)).long()  # (B,)
        term = bound_term(denoiser, x0, noise(t), t, cond, variance=variance, clamp=clamp)
        terms.append(len(part) * term)
    prior, each = prior_kl(schedule, x0), torch.stack(terms, dim=1)  # (B,), (B,K)
    return BitsPerDimension(prior + each.sum(dim=1), prior, each, parts)


def strata(schedule: NoiseSchedule, count: int) -> list[range]:
    """Cut the times 1..T into t = 1 and `count` − 1 ranges of equal increase of log(1−ᾱ).

    For standard normal data L_{t−1} is ½ log((1−ᾱ_t)/(1−ᾱ_{t−1})), so that all ranges hold an equal
    share of the sum; for images the last ones hold less. At small t, a step that exceeds its share
    is a range of its own. count = T gives every t its own.

    Raises ValueError unless 2 ≤ count ≤ T (1 if T is 1).
    """
    T = schedule.T
    if not min(2, T) <= count <= T:
        raise ValueError(f"the number of strata must lie in {min(2, T)}..{T}, not {count}")
    level = (1 - schedule.alpha_bar).log()  # (T+1,), rising
    ends = [1]
    for left in range(count - 1, 1, -1):
        start = ends[-1]
        target = level[start] + (level[T] - level[start]) / left
        nearest = int((level - target).abs().argmin())
        ends.append(min(max(nearest, start + 1), T - left + 1))
    ends += [T] * (T > 1)
    return [range(1, 2), *(range(a + 1, b + 1) for a, b in itertools.pairwise(ends))]


def bits(nats: Tensor) -> Tensor:
    """Convert nats of each element to bits per dimension of each image. (B,C,H,W) → (B,)."""
    return nats.flatten(1).mean(dim=1) / math.log(2)
