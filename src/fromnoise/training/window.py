"""What has happened since the last row of the log, and in this epoch."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

QUARTERS = 4


@dataclass
class Window:
    """Sums over steps; plain numbers, so that a checkpoint holds them too.

    The loss is kept by quarter of the noise levels, for its size differs by orders of magnitude
    between them, and the loss of one quarter may stand still while another falls.
    """

    loss: list[float] = field(default_factory=lambda: [0.0] * QUARTERS)
    count: list[float] = field(default_factory=lambda: [0] * QUARTERS)
    norm: float = 0.0
    norms: int = 0
    seconds: float = 0.0
    images: int = 0
    conditions: int = 0
    empty: int = 0
    partial: int = 0

    def add(
        self,
        losses: Tensor,
        t: Tensor,
        T: int,
        norm: float,
        seconds: float,
        cond: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> None:
        """Take in one step; NaN and ∞ are left out.

        losses and t ∈ {1..T}: (B,), on the CPU. cond: what the network was told, (B,K). factor:
        what makes up for times that were not drawn evenly, (B,): with it, a mean loss is an
        estimate of that over even times, and curves compare.
        """
        quarters, factors = ((t - 1) * QUARTERS // T).tolist(), _factors(factor, losses)
        for quarter, loss, counts in zip(quarters, losses.tolist(), factors, strict=True):
            if math.isfinite(loss):
                self.loss[quarter] += counts * loss
                self.count[quarter] += counts
        if math.isfinite(norm):
            self.norm += norm
            self.norms += 1
        self.seconds += seconds
        self.images += len(losses)
        if cond is not None:
            said = (cond != 0).sum(dim=1)
            self.conditions += len(cond)
            self.empty += int((said == 0).sum())
            self.partial += int(((said > 0) & (said < cond.shape[1])).sum())

    def means(self) -> dict[str, float | None]:
        """Mean loss, overall and by quarter (q1: least noise), gradient norm, and speed.

        With labels also the share of images whose condition was empty, and of those that said only
        a part of the labels. None where nothing finite was seen.
        """
        shares = {"conditions_empty": self.empty, "conditions_partial": self.partial}
        return {
            "loss": _mean(sum(self.loss), sum(self.count)),
            **{f"loss_q{i + 1}": _mean(self.loss[i], self.count[i]) for i in range(QUARTERS)},
            "gradient_norm": _mean(self.norm, self.norms),
            "images_per_second": self.images / self.seconds,
            **({key: n / self.conditions for key, n in shares.items()} if self.conditions else {}),
        }


@dataclass
class Mean:
    """The mean of the finite losses since the last epoch ended."""

    total: float = 0.0
    count: float = 0

    def add(self, losses: Tensor, factor: Tensor | None = None) -> None:
        """Take in one step: (B,), on the CPU, with factors as in `Window.add`."""
        finite = torch.isfinite(losses)
        counts = torch.ones_like(losses, dtype=torch.int64) if factor is None else factor
        self.total += (counts * losses)[finite].sum().item()
        self.count += counts[finite].sum().item()

    def value(self) -> float | None:
        """None where nothing finite was seen."""
        return _mean(self.total, self.count)


def _factors(factor: Tensor | None, losses: Tensor) -> list[float]:
    return [1] * len(losses) if factor is None else factor.tolist()


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
