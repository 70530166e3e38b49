"""New pictures from given ones: where a sampler starts when it does not start from pure noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule


def interpolation_starts(
    schedule: NoiseSchedule, a: Tensor, b: Tensor, fractions: Sequence[float], t: int, eps: Tensor
) -> Tensor:
    """x̄_t = (1−λ) x_t + λ x'_t for each λ of `fractions`, between a and b noised to t.

    Ho et al., section 4.3, but for the noise. The paper draws x_t and x'_t separately, and keeps
    both for all λ; here x_t = √ᾱ_t a + √(1−ᾱ_t) ε and x'_t, of b, share one ε, because x̄_t then has
    the variance 1−ᾱ_t that a denoiser expects. Two noises mixed have only ((1−λ)² + λ²) (1−ᾱ_t). A
    larger t keeps less of both images and leaves more to the model.

    Any sampler goes on from here, over t and the kept times below it:

        times = [t, *(u for u in sampling_times(schedule, steps) if u < t)]

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
        raise ValueError(f"t must lie in 1..{schedule.T} to leave room for a change, not {t}")
    of_a, of_b = schedule.add_noise(a, eps, t), schedule.add_noise(b, eps, t)
    share = torch.tensor(list(fractions), dtype=a.dtype, device=a.device)
    share = share.reshape(-1, *[1] * a.ndim)  # (n,1,1,1)
    return (1 - share) * of_a + share * of_b
