"""Draw the timestep of each image of a step: uniform, stratified, or by importance."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fromnoise.rng import BatchDraws

NoiseLevels = Literal["uniform", "stratified", "importance"]
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


def draw_noise_levels(
    noise_levels: NoiseLevels, T: int, draws: BatchDraws, history: LossHistory | None = None
) -> tuple[Tensor, Tensor | None]:
    """Draw t ∈ {1..T} for each image, (B,). Return it with the factor of each loss, (B,).

    uniform: each t has the probability 1/T, independently. stratified: one t from each of
    `batch_size` equal parts of {1..T}, in random order; each t has the probability 1/T again, but a
    batch covers all noise levels. importance: t has the probability p_t of the history, which is
    needed then, and the factor 1/(T·p_t), so that the expectation of the loss and of its gradient
    is that of uniform; uniform until p_t is known. The factor is None for 1.
    """
    u = torch.from_numpy(draws.uniform("t")[:, 0])
    if noise_levels == "stratified":
        u = (torch.from_numpy(draws.strata("t, strata")) + u) / draws.batch_size  # in [0, 1)
    if noise_levels == "importance":
        assert history is not None
        p = history.probabilities()
        if p is not None:
            index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=T - 1)
            return index + 1, (1 / (T * p[index])).float()
    return (1 + (u * T).long()).clamp(max=T), None
