"""Pictures of numbers: the loss over a training, the variational bound over the times t."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    curves = [("loss", "all $t$", "#d1495b", 2.0)]
    for quarter, colour in enumerate(("#8fd0c0", "#45a3b0", "#2f6f9f", "#2b3a73"), start=1):
        note = {1: " (least noise)", 4: " (most noise)"}.get(quarter, "")
        curves.append((f"loss_q{quarter}", f"quarter {quarter} of $t${note}", colour, 1.4))

    axes = _log_axes(title)
    axes.set(xlabel="training step", ylabel="loss (mean squared error per element)")
    for key, label, colour, width in curves:
        steps, losses = _series(log_rows, key)
        if len(steps):
            dot = "o" if len(steps) == 1 else None  # a line of one point cannot be seen
            smooth = _smooth(steps, losses)
            axes.plot(steps, smooth, color=colour, linewidth=width, label=label, marker=dot)
        if len(steps) and key == "loss":
            axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=0.7, label="as logged")
    return _save(axes, path)


def bits_figure(
    curve: Sequence[tuple[int, int, float, float, float]],
    path: str | Path,
    *,
    title: str,
) -> Path:
    """Write the terms of the variational bound against t as a PNG, both axes logarithmic.

    L_0 at t = 1 is a point, for it is measured on another scale: the logarithm of a probability,
    where the others are divergences. Each of those is drawn as the mean over its stretch of t.

    Args:
        curve: (first t, last t, mean term of one step in bits per dimension, and the ends of its
            95 % interval) for each stretch, from t = 1 alone upwards.
        path: its folder is made if missing.
        title: stands above the curve.

    Returns:
        The path.
    """
    axes = _log_axes(title)
    axes.set(xlabel="$t$", ylabel="bits per dimension in one step")
    blue, red = "#2f6f9f", "#d1495b"
    (_, _, value, low, high), *others = curve
    axes.errorbar([1], [value], [[value - low], [high - value]], color=red, fmt="o", label="$L_0$")
    if others:
        firsts, lasts, values, lows, highs = np.array(others, dtype=np.float64).T
        edges = np.array([*(firsts - 0.5), lasts[-1] + 0.5])
        steps = {"color": blue, "zorder": 2}  # above the grid
        axes.stairs(values, edges, baseline=None, linewidth=1.6, label="$L_{t-1}$", **steps)
        axes.stairs(highs, edges, baseline=lows, fill=True, alpha=0.25, **steps)
        axes.use_sticky_edges = False
    return _save(axes, path)


def _log_axes(title: str) -> "Axes":
    from matplotlib.figure import Figure  # slow to import: wait until there is a figure

    figure = Figure(figsize=(8.6, 5.0), dpi=128, facecolor="white")
    axes = figure.add_axes((0.09, 0.12, 0.67, 0.76))
    axes.set(xscale="log", yscale="log")
    axes.set_title(title, fontsize=TITLE, loc="left", pad=12)
    return axes


def _save(axes: "Axes", path: str | Path) -> Path:
    from matplotlib.ticker import LogLocator

    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=SMALL)
    axes.grid(color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    for axis, form in ((axes.xaxis, "{x:,g}"), (axes.yaxis, "{x:g}")):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(form)
        axis.set_minor_formatter("")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    axes.get_figure(root=True).savefig(path)
    return path


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, losses = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    usable = np.isfinite(losses) & (losses > 0)
    return steps[usable], losses[usable]


def _smooth(steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Geometric mean over the rows within ± 10 % of each step; steps ascend."""
    sums = np.concatenate([[0.0], np.cumsum(np.log(losses))])
    first = np.searchsorted(steps, steps * 0.9, side="left")
    last = np.searchsorted(steps, steps * 1.1, side="right")
    return np.exp((sums[last] - sums[first]) / (last - first))
