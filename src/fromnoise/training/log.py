"""The log of a run: `log.jsonl`, the terminal, and the trackers of `training.log_to`."""

import json
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from fromnoise.checkpoints import atomic_file, disk_full_names
from fromnoise.config.schema import Training
from fromnoise.progress import console, format_duration
from fromnoise.training.trackers import Trackers

LOG_FILE = "log.jsonl"
EPOCH_LINE_EVERY = 5  # seconds between two lines about epochs, at least
QUARTERS = 4
logger = logging.getLogger("fromnoise")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log.jsonl, in order, without lines that are damaged."""
    return [row for _, row in parse_log(run) if row is not None]


def parse_log(run: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Return each line of a run's log.jsonl with its row, which is None if the line is damaged."""
    parsed = []
    file = run / LOG_FILE
    text = file.read_text("utf-8", errors="backslashreplace") if file.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        whole = isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0
        parsed.append((line, row if whole else None))
    return parsed


class RunLog:
    """Write rows to log.jsonl and the trackers, and show them, on a terminal by a progress bar."""

    def __init__(self, run: Path, settings: Training, *, from_step: int) -> None:
        """Open the log, and delete rows after `from_step`, which a killed process wrote."""
        self._file = run / LOG_FILE
        self._file.touch()  # a preview may read it before the first row
        lines = parse_log(run)
        # a kill can only cut off the last line, and its row is written again
        cut = not self._file.read_bytes().endswith(b"\n")
        if damaged := [
            line for line, row in lines[: -1 if cut else None] if not row and line.strip()
        ]:
            aside = run / f"log.damaged-{from_step:06d}.txt"
            aside.write_text("\n".join(damaged) + "\n", encoding="utf-8")
            logger.warning("%s: %d damaged lines were moved to %s", LOG_FILE, len(damaged), aside)
        kept = [row for _, row in lines if row is not None and row["step"] <= from_step]
        with atomic_file(self._file) as writing:
            writing.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._total_steps = settings.steps
        self._epoch_printed = -math.inf
        self._trackers = Trackers(settings.log_to, run, from_step)
        self._progress = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=settings.steps, completed=from_step, line="")

    def __enter__(self) -> "RunLog":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # of a closed terminal
            self._progress.stop()
        self._trackers.close()

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`."""
        self._progress.update(self._task, completed=step)

    def row(self, row: dict[str, Any]) -> None:
        """Write one row.

        It needs `step`, `loss`, `images_per_second`, `epoch`, `images` and `batch_size`.
        """
        self.event(**row)
        rate = row["images_per_second"]
        left = (self._total_steps - row["step"]) * row["batch_size"] / rate
        line = (
            f"loss {row['loss'] or math.nan:.4f}  {rate:,.0f} images/s  epoch {row['epoch']:.1f}  "
            f"{row['images']:,} images seen  {format_duration(left)} left"
        )
        self._progress.update(self._task, completed=row["step"], line=line)
        if self._progress.disable:
            logger.info("step %d/%d  %s", row["step"], self._total_steps, line)

    def epoch(self, step: int, epoch: int, loss: float | None) -> None:
        """Write the mean loss of the epoch that ended. Print it too, unless epochs are short."""
        self.event(step, finished_epoch=epoch, epoch_loss=loss)
        if time.monotonic() - self._epoch_printed > EPOCH_LINE_EVERY:
            self._epoch_printed = time.monotonic()
            logger.info("epoch %d: mean loss %.4f", epoch, math.nan if loss is None else loss)

    def event(self, step: int, **values: Any) -> None:
        """Write a row of other values: a skipped step, the end of an epoch, a score.

        Trackers receive only those that are numbers.
        """
        self._trackers.add(values, step)
        with disk_full_names(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


@dataclass
class LogWindow:
    """Sums over the steps since the last row of the log. A checkpoint holds them too.

    The loss is summed by quarter of the timesteps: its size differs by orders of magnitude between
    them, and the loss of one quarter may stay the same while that of another falls.
    """

    loss_sums: list[float] = field(default_factory=lambda: [0.0] * QUARTERS)
    loss_counts: list[float] = field(default_factory=lambda: [0] * QUARTERS)
    norm_sum: float = 0.0
    norm_count: int = 0
    seconds: float = 0.0
    images: int = 0
    conditions: int = 0
    unconditional: int = 0
    partly_labelled: int = 0

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
        """Add one step. NaN and ∞ are left out.

        losses and t ∈ {1..T}: (B,), on the CPU. cond: the conditioning of the network, (B,K).
        factor: the importance weight of each loss, (B,). With it, the mean loss is an estimate of
        that over uniform timesteps, so that curves of uniform, stratified and importance
        `training.noise_levels` are comparable. Others weight the timesteps, and thus the mean loss.
        """
        quarters = ((t - 1) * QUARTERS // T).tolist()
        weights = [1] * len(losses) if factor is None else factor.tolist()
        for quarter, loss, weight in zip(quarters, losses.tolist(), weights, strict=True):
            if math.isfinite(loss):
                self.loss_sums[quarter] += weight * loss
                self.loss_counts[quarter] += weight
        if math.isfinite(norm):
            self.norm_sum += norm
            self.norm_count += 1
        self.seconds += seconds
        self.images += len(losses)
        if cond is not None:
            labels = (cond != 0).sum(dim=1)
            self.conditions += len(cond)
            self.unconditional += int((labels == 0).sum())
            self.partly_labelled += int(((labels > 0) & (labels < cond.shape[1])).sum())

    def means(self) -> dict[str, float | None]:
        """Return the mean loss, overall and by quarter (q1: least noise), gradient norm, and speed.

        With labels, also return the shares of unconditional and of partly labelled images. A mean
        is None if no value was finite.
        """
        means = {"loss": _mean(sum(self.loss_sums), sum(self.loss_counts))}
        for i, pair in enumerate(zip(self.loss_sums, self.loss_counts, strict=True), start=1):
            means[f"loss_q{i}"] = _mean(*pair)
        means["gradient_norm"] = _mean(self.norm_sum, self.norm_count)
        means["images_per_second"] = self.images / self.seconds
        if self.conditions:
            means["conditions_empty"] = self.unconditional / self.conditions
            means["conditions_partial"] = self.partly_labelled / self.conditions
        return means


@dataclass
class EpochLoss:
    """The sum of the finite losses since the last epoch ended."""

    total: float = 0.0
    count: float = 0

    def add(self, losses: Tensor, factor: Tensor | None = None) -> None:
        """Add one step: losses (B,), on the CPU, with factors as in `LogWindow.add`."""
        finite = torch.isfinite(losses)
        weights = torch.ones_like(losses, dtype=torch.int64) if factor is None else factor
        self.total += (weights * losses)[finite].sum().item()
        self.count += weights[finite].sum().item()

    def mean(self) -> float | None:
        """Return the mean loss. None if no loss was finite."""
        return _mean(self.total, self.count)


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
