"""Interpolation between two images, or between two draws of noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule, per_image


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Return sin((1−λ)θ)/sin θ · a + sin(λθ)/sin θ · b, θ their angle, for λ = `fraction`.

    Spherical interpolation, as Song, Meng and Ermon 2021 (arXiv:2010.02502, appendix D.5) use
    between two x_T. Two independent draws of noise are nearly orthogonal, and a straight line
    between them would pass at 0.7 of their length, where no noise lies.

    a, b: (B,C,H,W); the angle is that of each image over all its elements. λ ∈ [0, 1]; at 0 the
    result is a, at 1 it is b. Parallel images, θ = 0, are mixed in a straight line, the limit.
    Raises ValueError for opposite ones, θ = π, which no shortest arc connects.
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction must lie between 0 (a) and 1 (b), not {fraction}")
    u, v = (x.to("cpu", torch.float64).flatten(1) for x in (a, b))
    u, v = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-300) for x in (u, v))
    # from half the chords, which is exact at all angles; an arc cosine loses half the digits at 0
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    if (angle > torch.pi - 1e-6).any():
        raise ValueError(
            "a and b are opposite (b = −k·a): no shortest arc connects them. Use other endpoints."
        )
    # sin(λθ)/sin θ = λ sinc(λθ/π)/sinc(θ/π), which has its limit λ at θ = 0
    of_a, of_b = (
        per_image(share * torch.sinc(share * angle / torch.pi) / torch.sinc(angle / torch.pi), a)
        for share in (1 - fraction, fraction)
    )
    return of_a * a + of_b * b


def interpolation_starts(
    schedule: NoiseSchedule, a: Tensor, b: Tensor, fractions: Sequence[float], t: int, eps: Tensor
) -> Tensor:
    """Return x̄_t = (1−λ) x_t + λ x'_t for each λ of `fractions`, between a and b noised to t.

    Ho et al., section 4.3, except for the noise. The paper draws x_t and x'_t separately, and keeps
    both for all λ. Here x_t = √ᾱ_t a + √(1−ᾱ_t) ε and x'_t, of b, share one ε, so that x̄_t has the
    variance 1−ᾱ_t that a denoiser expects. Two mixed noises have only ((1−λ)² + λ²) (1−ᾱ_t). A
    larger t keeps less of both images and leaves more to the model.

    Any sampler continues from here, over t and the kept times below it:

        times = [t, *(u for u in sampling_timesteps(schedule, steps) if u < t)]

    a, b: (C,H,W) in [−1, 1]; eps: like a, standard normal; λ ∈ [0, 1]; t ∈ {1..T}. Returns
    (n,C,H,W), at λ = 0 the noised a and at λ = 1 the noised b. Raises ValueError otherwise.
    """
    if not a.shape == b.shape == eps.shape:
        raise ValueError(
            "the two images and the noise must have one shape, not "
            f"{tuple(a.shape)}, {tuple(b.shape)} and {tuple(eps.shape)}"
        )
    outside = [f for f in fractions if not 0 <= f <= 1]
    if outside:
        raise ValueError(f"fractions must lie between 0 (the first image) and 1, not {outside[0]}")
    if t < 1:
        raise ValueError(f"t must lie in 1..{schedule.T}, not {t}")
    noised_a, noised_b = schedule.add_noise(a, eps, t), schedule.add_noise(b, eps, t)
    share = per_image(torch.tensor(list(fractions), dtype=torch.float64), a[None])  # (n,1,1,1)
    return (1 - share) * noised_a + share * noised_b
