"""Which noise level each image of a step is shown at: uniform, stratified, or by importance."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Times = Literal["uniform", "stratified", "importance"]
KEPT = 10  # losses of each t
EVEN = 0.001  # share of the draws that stays uniform, so that no p_t is ever 0


@dataclass
class History:
    """The last `KEPT` losses of each t: what the loss weighs at each noise level, as far as known.

    losses: (T, KEPT) float32, a ring for each t; seen: (T,) int64, how many losses of t there were.
    """

    losses: Tensor
    seen: Tensor

    @classmethod
    def of(cls, T: int) -> "History":
        """Of nothing seen yet."""
        return cls(torch.zeros(T, KEPT), torch.zeros(T, dtype=torch.int64))

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Take in one step. t ∈ {1..T} and losses, finite: (B,), on the CPU."""
        kept, seen = self.losses.numpy(), self.seen.numpy()  # the same memory
        for index, loss in zip((t - 1).tolist(), losses.tolist(), strict=True):
            kept[index, seen[index] % KEPT] = loss
            seen[index] += 1

    def probabilities(self) -> Tensor | None:
        """p_t ∝ √E[L_t²], (T,) float64; None until every t has `KEPT` losses.

        Nichol and Dhariwal 2021 (arXiv:2102.09672), section 3.3: of all ways to draw t, this has
        the least variance of L_t/p_t.
        """
        if (self.seen < KEPT).any():
            return None
        size = self.losses.double().square().mean(dim=1).sqrt()
        even = torch.full_like(size, 1 / len(size))
        total = size.sum()
        return (1 - EVEN) * size / total + EVEN * even if total > 0 else even


def draw_noise_levels(
    how: Times, T: int, count: int, draws: torch.Generator, history: History | None = None
) -> tuple[Tensor, Tensor | None]:
    """t ∈ {1..T} of each image, (count,), and the factor of its loss, (count,), or None for 1.

    uniform: each t with 1/T, on its own. stratified: one t from each of `count` equal parts of the
    line of all t, in random order; each t with 1/T again, but a batch has no gaps. importance: t
    with p_t of the history (needed then), and the factor 1/(T·p_t), so that the expectation of the
    loss, and of its gradient, stays the uniform one; uniform as long as there is no p_t.
    """
    if how == "stratified":
        place = torch.rand(count, generator=draws, dtype=torch.float64)
        u = (torch.randperm(count, generator=draws) + place) / count  # in [0, 1)
        return (1 + (u * T).long()).clamp(max=T), None
    if how == "importance":
        assert history is not None
        p = history.probabilities()
        if p is not None:
            index = torch.multinomial(p, count, replacement=True, generator=draws)
            return index + 1, (1 / (T * p[index])).float()
    return torch.randint(1, T + 1, (count,), generator=draws), None
