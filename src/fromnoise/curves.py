"""Rows of a log → a picture of the loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TITLE, SMALL = 11, 8  # points


def loss_figure(
    log_rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    title: str,
) -> Path:
    """Write the loss against the training step as a PNG, both axes logarithmic.

    The loss is drawn as logged and smoothed; the losses of the four quarters of the noise
    levels, whose sizes differ by orders of magnitude, smoothed. Smoothing is a geometric mean
    over the rows within ± 10 % of the step.

    Args:
        log_rows: mappings with `step` ≥ 1, `loss` > 0 and where known `loss_q1` (least noise) …
            `loss_q4` (most noise). Rows without a loss, and values that are missing, not
            finite or not positive, are passed over.
        path: its folder is made if missing.
        title: stands above the curves.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure  # slow to import: wait until there is a figure
    from matplotlib.ticker import LogLocator

    curves = [("loss", "all $t$", "#d1495b", 2.0)]
    for quarter, colour in enumerate(("#8fd0c0", "#45a3b0", "#2f6f9f", "#2b3a73"), start=1):
        note = {1: " (least noise)", 4: " (most noise)"}.get(quarter, "")
        curves.append((f"loss_q{quarter}", f"quarter {quarter} of $t${note}", colour, 1.4))

    figure = Figure(figsize=(8.6, 5.0), dpi=128, facecolor="white")
    axes = figure.add_axes((0.09, 0.12, 0.67, 0.76))
    axes.set(xscale="log", yscale="log", xlabel="training step")
    axes.set_ylabel("loss (mean squared error per element)")
    for key, label, colour, width in curves:
        steps, losses = _series(log_rows, key)
        if len(steps):
            dot = "o" if len(steps) == 1 else None  # a line of one point cannot be seen
            smooth = smoothed(steps, losses)
            axes.plot(steps, smooth, color=colour, linewidth=width, label=label, marker=dot)
        if len(steps) and key == "loss":
            axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=0.7, label="as logged")
    if axes.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=SMALL)

    axes.set_title(title, fontsize=TITLE, loc="left", pad=12)
    axes.grid(color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    for axis, form in ((axes.xaxis, "{x:,g}"), (axes.yaxis, "{x:g}")):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(form)
        axis.set_minor_formatter("")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def smoothed(steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Geometric mean over the rows within ± 10 % of each step; steps ascend."""
    sums = np.concatenate([[0.0], np.cumsum(np.log(losses))])
    first = np.searchsorted(steps, steps * 0.9, side="left")
    last = np.searchsorted(steps, steps * 1.1, side="right")
    return np.exp((sums[last] - sums[first]) / (last - first))


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, losses = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    usable = np.isfinite(losses) & (losses > 0)
    return steps[usable], losses[usable]
