"""Draw curves: the training loss, the variational bound by timestep, quality against cost."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE, SMALL = 11, 8  # points
COLOURS = ("#d1495b", "#2f6f9f", "#3f9b6e", "#b07d2b", "#7a5195", "#555555")


def loss_figure(
    log_rows: Sequence[Mapping[str, Any]], path: str | Path, *, title: str, loss_name: str = ""
) -> Path:
    """Write the loss against the training step as a PNG, both axes logarithmic.

    The loss is drawn as logged and smoothed. The losses of the four quarters of the timesteps,
    which differ by orders of magnitude, are drawn smoothed. Smoothing is a geometric mean over the
    rows within ± 10 % of the step.

    log_rows: mappings with `step` ≥ 1, `loss` > 0 and optionally `loss_q1` (least noise) …
    `loss_q4` (most noise). Values that are missing, not finite or not positive are skipped.
    loss_name: the axis label, for example `huber × min_snr`. Empty if unknown.
    """
    curves = [("loss", "all $t$", "#d1495b", 2.0)]
    for quarter, colour in enumerate(("#8fd0c0", "#45a3b0", "#2f6f9f", "#2b3a73"), start=1):
        note = {1: " (least noise)", 4: " (most noise)"}.get(quarter, "")
        curves.append((f"loss_q{quarter}", f"quarter {quarter} of $t${note}", colour, 1.4))

    axes = _log_axes(title)
    axes.set(xlabel="training step", ylabel=f"loss: {loss_name}" if loss_name else "loss")
    for key, label, colour, width in curves:
        steps, losses = _series(log_rows, key)
        if len(steps):
            dot = "o" if len(steps) == 1 else None  # a line of one point is invisible
            style = {"color": colour, "linewidth": width, "label": label, "marker": dot}
            axes.plot(steps, smooth(steps, losses), **style)
        if len(steps) and key == "loss":
            axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=0.7, label="as logged")
    return _save(axes, path)


def bits_figure(
    curve: Sequence[tuple[int, int, float, float, float]], path: str | Path, *, title: str
) -> Path:
    """Write the terms of the variational bound against t as a PNG, both axes logarithmic.

    L_0 at t = 1 is a point, because it is the logarithm of a probability and the other terms are
    divergences. Each of those is drawn as the mean over its range of t.

    curve: for each range of t: (first t, last t, mean term of one step in bits per dimension, and
    the ends of its 95 % interval). The first range is t = 1 alone.
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


def sweep_figure(
    lines: Mapping[str, Sequence[Sequence[float]]],
    front: Sequence[tuple[float, float]],
    path: str | Path,
    *,
    distance: str,
) -> Path:
    """Write a distance against the sampling time as a PNG, both axes logarithmic.

    lines: name → (steps, seconds per image, distance, and the ends of its 95 % interval) for each
    step count. Distances that are not positive are left out. front: (seconds, distance) of the
    Pareto front, drawn in grey below the lines. distance: the name of the distance, for its axis.
    """
    axes = _log_axes("Quality against cost (numbers: steps; grey: Pareto front)")
    axes.set(xlabel="seconds per image", ylabel=f"{distance} (lower is better)")
    edge = np.reshape(sorted((s, d) for s, d in front if d > 0), (-1, 2)).T
    axes.step(*edge, where="post", color="0.85", linewidth=6, zorder=0)
    drawn = []
    for (name, points), colour in zip(lines.items(), itertools.cycle(COLOURS), strict=False):
        rows = np.array([point for point in points if point[2] > 0]).reshape(-1, 5)
        steps, seconds, values, lows, highs = rows.T
        lows = np.maximum(lows, values / 100)  # intervals that reach 0 end at the axis
        drawn.append(np.stack([seconds, lows, highs]))
        errors = (values - lows, highs - values)
        style = {"color": colour, "marker": "o", "markersize": 4}
        axes.errorbar(seconds, values, errors, label=name, **style)
        for count, at in zip(steps, zip(seconds, values, strict=True), strict=True):
            beside = {"textcoords": "offset points", "xytext": (6, 4)}
            axes.annotate(f"{count:g}", at, fontsize=SMALL, color=colour, **beside)
    seconds, lows, highs = np.concatenate(drawn, axis=1)
    if len(seconds):  # a single point gives the axes no width
        axes.set_xlim(seconds.min() / 1.5, seconds.max() * 1.5)
        axes.set_ylim(lows.min() / 1.5, highs.max() * 1.5)
    return _save(axes, path)


def _log_axes(title: str) -> "Axes":
    from matplotlib.figure import Figure  # slow to import

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
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(path)
    return path


def smooth(steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the geometric mean over the rows within ± 10 % of each step. Steps must ascend."""
    sums = np.concatenate([[0.0], np.cumsum(np.log(losses))])
    first = np.searchsorted(steps, steps * 0.9, side="left")
    last = np.searchsorted(steps, steps * 1.1, side="right")
    return np.exp((sums[last] - sums[first]) / (last - first))


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, losses = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    usable = np.isfinite(losses) & (losses > 0)
    return steps[usable], losses[usable]
