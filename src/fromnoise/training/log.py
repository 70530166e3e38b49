"""What a run says while it trains: `log.jsonl` always, TensorBoard if asked, and the terminal."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from fromnoise.progress import console, format_duration

LOG_FILE = "log.jsonl"
HASTY = 5  # seconds: epochs that are shorter are not all printed
logger = logging.getLogger("fromnoise")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log.jsonl, in order; a last line cut off by a crash is left out."""
    rows = []
    for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class RunLog:
    """Rows of numbers, each with its step, to all places at once."""

    def __init__(self, run: Path, *, from_step: int, total_steps: int, tensorboard: bool) -> None:
        """Rows later than `from_step`, left by a session that crashed, are dropped."""
        self._file = run / LOG_FILE
        if self._file.exists():
            kept = [row for row in read_log(run) if row["step"] <= from_step]
            replacement = self._file.with_suffix(".writing")
            replacement.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(replacement, self._file)
        self._file.touch()  # a preview may come before the first row
        self.total_steps = total_steps
        self._epoch_shown = -math.inf
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=from_step + 1)
        self._progress = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=from_step, line="")

    @contextmanager
    def shown(self) -> Iterator["RunLog"]:
        """A progress bar on a terminal, plain lines elsewhere; files are closed at the end."""
        live = self._progress.console.is_terminal
        if live:
            self._progress.start()
        try:
            yield self
        finally:
            if live:
                self._progress.stop()
            if self._board is not None:
                self._board.close()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self._progress.update(self._task, completed=step)

    def row(self, row: dict[str, Any]) -> None:
        """Write one row. It has `step`, `loss`, `images_per_second`, `epoch`, `images` at least."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for key, value in row.items():
                if key != "step" and value is not None:
                    self._board.add_scalar(key, value, row["step"])
        rate = row["images_per_second"]
        left = (self.total_steps - row["step"]) * row["batch_size"] / rate
        line = (
            f"loss {row['loss'] or math.nan:.4f}  {rate:,.0f} images/s  epoch {row['epoch']:.1f}  "
            f"{row['images']:,} images seen  {format_duration(left)} left"
        )
        if self._progress.console.is_terminal:
            self._progress.update(self._task, completed=row["step"], line=line)
        else:
            logger.info("step %d/%d  %s", row["step"], self.total_steps, line)

    def epoch(self, step: int, epoch: int, loss: float | None) -> None:
        """Write the mean loss of the epoch that ended; as a line too, where epochs take a while."""
        self.event(step, finished_epoch=epoch, epoch_loss=loss)
        if time.monotonic() - self._epoch_shown > HASTY:
            self._epoch_shown = time.monotonic()
            logger.info("epoch %d: mean loss %.4f", epoch, math.nan if loss is None else loss)

    def event(self, step: int, **facts: Any) -> None:
        """Write a row of other facts: a skipped step, the end of an epoch."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **facts}) + "\n")


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
