"""Draw the timestep of each image: uniform, stratified, by importance, or by given p_t."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fromnoise.config.schema import Component, Diffusion, Recipe
from fromnoise.diffusion.noise_levels import EVEN, NOISE_LEVELS
from fromnoise.rng import BatchDraws

KEPT = 10  # losses of each t
UNIFORM_SHARE = 0.001  # of the draws, so that no p_t is ever 0


@dataclass
class LossHistory:
    """The last `KEPT` losses of each t.

    losses: (T, KEPT) float32, a ring buffer for each t. seen: (T,) int64, the number of losses of
    each t so far.
    """

    losses: Tensor
    seen: Tensor

    @classmethod
    def empty(cls, T: int) -> "LossHistory":
        """Return a history without any losses."""
        return cls(torch.zeros(T, KEPT), torch.zeros(T, dtype=torch.int64))

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Add one step. t ∈ {1..T} and losses, finite: (B,), on the CPU."""
        kept, seen = self.losses.numpy(), self.seen.numpy()  # the same memory
        for index, loss in zip((t - 1).tolist(), losses.tolist(), strict=True):
            kept[index, seen[index] % KEPT] = loss
            seen[index] += 1

    def probabilities(self) -> Tensor | None:
        """Return p_t ∝ √E[L_t²], (T,) float64. None until every t has `KEPT` losses.

        Nichol and Dhariwal 2021 (arXiv:2102.09672), section 3.3: this distribution of t has the
        least variance of L_t/p_t.
        """
        if (self.seen < KEPT).any():
            return None
        size = self.losses.double().square().mean(dim=1).sqrt()
        uniform = torch.full_like(size, 1 / len(size))
        total = size.sum()
        return (
            (1 - UNIFORM_SHARE) * size / total + UNIFORM_SHARE * uniform if total > 0 else uniform
        )


class NoiseLevelDraw(NamedTuple):
    """The noise level of each image, (B,), and the factors of its loss.

    t ∈ {1..T}, int64. factor: of the whole loss, float32, None for 1. bound_factor: the same for
    the variational bound alone, if the loss contains it.
    """

    t: Tensor
    factor: Tensor | None = None
    bound_factor: Tensor | None = None


def probabilities(recipe: Recipe) -> Tensor | None:
    """Return p_t, (T,) float64, if `training.noise_levels` weights the timesteps; else None."""
    noise_levels, diffusion = recipe.training.noise_levels, recipe.diffusion
    if noise_levels.name in EVEN:
        return None
    return _probabilities(noise_levels.model_dump_json(), diffusion.model_dump_json())


@lru_cache(maxsize=4)
def _probabilities(noise_levels: str, diffusion: str) -> Tensor:
    """Return p_t of two parts of a recipe, given as JSON, which is hashable."""
    component = Component.model_validate_json(noise_levels)
    schedule = Diffusion.model_validate_json(diffusion).noise_schedule()
    return NOISE_LEVELS[component.name](schedule, **component.options)


def draw_noise_levels(
    name: str,
    T: int,
    draws: BatchDraws,
    history: LossHistory | None = None,
    p: Tensor | None = None,
) -> NoiseLevelDraw:
    """Draw t ∈ {1..T} for each image, with the factors of its loss.

    uniform: each t has the probability 1/T, independently. stratified: one t from each of
    `batch_size` equal parts of {1..T}, in random order; each t has the probability 1/T again, but a
    batch covers all noise levels. importance: t has the probability p_t of `history`, which is
    required, and the factor 1/(T·p_t), so that the expectation of the loss and of its gradient is
    that of uniform; until p_t is known, t is uniform.

    Any other name: t has the probability p_t of `p`, (T,), without a factor: these p_t are the
    weights of the timesteps. The u of a batch are stratified, which covers p more evenly and
    changes no expectation. The bound has the factor 1/(T·p_t), which makes it the bound.
    """
    u = torch.from_numpy(draws.uniform("t")[:, 0])
    if name == "stratified" or p is not None:
        u = (torch.from_numpy(draws.strata("t, strata")) + u) / draws.batch_size  # in [0, 1)
    if p is not None:
        cumulative = p.cumsum(0)
        below = u.clamp(max=1 - 2**-53) * cumulative[-1]  # never beyond the last p_t above 0
        index = torch.searchsorted(cumulative, below, right=True).clamp(max=T - 1)
        return NoiseLevelDraw(index + 1, bound_factor=(1 / (T * p[index])).float())
    if name == "importance":
        assert history is not None
        p = history.probabilities()
        if p is not None:
            index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=T - 1)
            return NoiseLevelDraw(index + 1, factor=(1 / (T * p[index])).float())
    return NoiseLevelDraw((1 + (u * T).long()).clamp(max=T))
