"""Inpainting: regenerate a part of an image and keep the rest (RePaint)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers import Step, Variance, reverse_step, steps_between
from fromnoise.diffusion.schedule import NoiseSchedule


def inpaint(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    image: Tensor,
    known: Tensor,
    noise: Callable[..., Tensor],
    resample: int = 10,
    jump: int = 5,
    variance: Variance = "small",
) -> Iterator[Step]:
    """Sample the unknown part of an image: x_s = m ⊙ x_s^known + (1−m) ⊙ x_s^new, m = `known`.

    RePaint (Lugmayr et al. 2022, arXiv:2201.09865), Algorithm 1 with jumps: x_s^new is an ancestral
    step from x_t, and x_s^known ~ N(√ᾱ_s image, 1−ᾱ_s) is the image under fresh noise. That step
    sees the known part only under noise, so the new part does not match it at first. Therefore
    the noise of `jump` steps is added again, x_t ~ N(√(ᾱ_t/ᾱ_s) x_s, 1−ᾱ_t/ᾱ_s), and each such
    piece of the trajectory is sampled `resample` times, at that cost; 1 is plain replacement.

    x: x_T, (B,C,H,W); times: falling, each in {1..T}. image: x_0, like x. known: bool, broadcasts
    against x; there the last x equals `image` exactly. With nothing known and resample = 1, this is
    `ddpm`, bit for bit. noise: standard normal, new for every key: noise(t) in the
    first round, then noise(t, round); noise(t, round, "known") and noise(t, round, "jump").
    variance: as of `ddpm`. Raises ValueError unless resample and jump are ≥ 1 and the times fall.
    """
    if resample < 1 or jump < 1:
        raise ValueError(
            f"resample = {resample}, jump = {jump} are out of range. Use at least 1 for both."
        )
    steps_between(times, schedule)  # raises unless they fall
    for piece in _pieces(times, jump):
        rounds = resample if piece[-1] > 0 else 1  # a finished image gets no new noise
        for round_ in range(rounds):
            for t, s in pairwise(piece):
                z = noise(t, round_) if round_ else noise(t)
                new, x0 = reverse_step(denoise(x, t), schedule, t, s, z, variance=variance)
                kept = image
                if s > 0:
                    kept = schedule.add_noise(image, noise(t, round_, "known"), s)
                x = torch.where(known, kept, new)
                yield Step(t, s, x, x0)
            if round_ + 1 < rounds:  # all steps of the piece forward at once (Ho et al., Eq. 2)
                share = (schedule.alpha_bar[piece[0]] / schedule.alpha_bar[s]).item()
                x = share**0.5 * x + (1 - share) ** 0.5 * noise(piece[0], round_, "jump")


def _pieces(times: Sequence[int], jump: int) -> list[list[int]]:
    """Cut the times every `jump` steps, counted from the end; the last step to 0 is separate.

    Each piece begins where the last one ends: [9, 7, 5, 3, 1], 3 → [9, 7], [7, 5, 3, 1], [1, 0].
    """
    cuts = sorted({0, *range(len(times) - 1, 0, -jump)})
    return [*(list(times[i : j + 1]) for i, j in pairwise(cuts)), [times[-1], 0]]
