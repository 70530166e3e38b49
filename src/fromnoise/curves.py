"""Draw curves as PNGs, and as SVGs for a page: losses, the variational bound, quality and cost."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fromnoise.checkpoints import atomic_file

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, SMALL = 11, 8  # points
COLOURS = ("#0b6a62", "#b4512a", "#5a55b3", "#97701a", "#a83b6c", "#4d6f2e")
QUARTERS = ("#55a67c", "#15879c", "#3b62b8", "#40226f")  # of t, from the least noise to the most
LARGEST = 1e300  # larger numbers are ignored
INK, GRID = "#000000", "#ebebeb"
VARIABLES = {  # colour → its CSS variable on a page, with a value for light and one for dark
    **{colour: f"--run{i}" for i, colour in enumerate(COLOURS, start=1)},
    **{colour: f"--quarter{i}" for i, colour in enumerate(QUARTERS, start=1)},
    INK: "--quiet",
    GRID: "--rule",
}
SVG_SIZE = (4.3, 2.5)  # inches
SVG_FRAME = (0.12, 0.15, 0.86, 0.81)  # left, bottom, width, height of the axes, as shares


class Curve(NamedTuple):
    """A line through points, with its interval at each point if `low` and `high` are given."""

    x: np.ndarray  # (n,), ascending
    y: np.ndarray  # (n,)
    colour: str
    name: str = ""
    faint: bool = False  # a raw curve behind the smoothed one
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def loss_figure(
    log_rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, loss_name: str = ""
) -> Path:
    """Write the loss against the training step as a PNG, both axes logarithmic.

    The loss is drawn as logged and smoothed. The losses of the four quarters of the timesteps,
    which differ by orders of magnitude, are drawn smoothed.

    log_rows: mappings with `step` ≥ 1, `loss` > 0 and optionally `loss_q1` (least noise) …
    `loss_q4` (most noise). Values that are missing, not finite or not positive are skipped.
    If rows have `held_out_loss`, it is drawn beside the loss of training images.
    loss_name: the axis label, for example `huber × min_snr`. Empty if unknown.
    """
    steps, losses = series(log_rows, "loss", positive=True)
    curves = [
        Curve(steps, smooth(steps, losses), COLOURS[1], "all $t$"),
        Curve(steps, losses, COLOURS[1], "as logged", faint=True),
    ]
    for quarter, colour in enumerate(QUARTERS, start=1):
        note = {1: " (least noise)", 4: " (most noise)"}.get(quarter, "")
        steps, losses = series(log_rows, f"loss_q{quarter}", positive=True)
        name = f"quarter {quarter} of $t${note}"
        curves.append(Curve(steps, smooth(steps, losses), colour, name))
    for key, colour in (("held_out_loss", COLOURS[4]), ("trained_loss", COLOURS[0])):
        steps, losses = series(log_rows, key, positive=True)
        if len(steps):
            curves.append(Curve(steps, losses, colour, f"{key.split('_loss')[0]} images"))
    axes = draw(curves, "training step", log_x=True, log_y=True)
    return save_png(axes, path, title=title, y_label=f"loss: {loss_name}" if loss_name else "loss")


def bits_axes(
    curve: Sequence[tuple[float, float, float, float, float]], colour: str = COLOURS[2]
) -> "Axes":
    """Plot the terms of the variational bound against t, both axes logarithmic.

    L_0 at t = 1 is a point, because it is the logarithm of a probability and the other terms are
    divergences. Each of those is drawn as the mean over its range of t.

    curve: for each range of t: (first t, last t, mean term of one step in bits per dimension, and
    the ends of its 95 % interval). The first range is t = 1 alone.
    """
    first, *others = np.array(curve, dtype=np.float64).reshape(-1, 1, 5)
    _, _, value, low, high = first.T
    l_0 = Curve(np.ones(1), value, COLOURS[1], "$L_0$", low=low, high=high)
    axes = draw([l_0], "t", log_x=True, log_y=True)
    if others:
        firsts, lasts, values, lows, highs = np.concatenate(others).T
        edges = np.array([*(firsts - 0.5), lasts[-1] + 0.5])
        style = {"color": colour, "zorder": 2}  # above the grid
        axes.stairs(values, edges, baseline=None, linewidth=1.6, label="$L_{t-1}$", **style)
        axes.stairs(highs, edges, baseline=lows, fill=True, alpha=0.25, **style)
        axes.use_sticky_edges = False
    return axes


def sweep_axes(
    lines: Mapping[str, Sequence[Sequence[float]]], front: Sequence[tuple[float, float]]
) -> "Axes":
    """Plot a distance against the sampling time, both axes logarithmic.

    lines: name → (steps, seconds per image, distance, and the ends of its 95 % interval) for each
    step count. Distances that are not positive are left out. front: (seconds, distance) of the
    Pareto front, drawn in grey below the lines.
    """
    curves, labels = [], []
    for (name, points), colour in zip(lines.items(), cycle(COLOURS), strict=False):
        rows = np.array([point for point in points if point[2] > 0]).reshape(-1, 5)
        steps, seconds, values, lows, highs = rows.T
        lows = np.maximum(lows, values / 100)  # intervals that reach 0 end at the axis
        curves.append(Curve(seconds, values, colour, name, low=lows, high=highs))
        labels += zip(steps, seconds, values, [colour] * len(steps), strict=True)
    axes = draw(curves, "seconds per image", log_x=True, log_y=True)
    edge = np.reshape(sorted((s, d) for s, d in front if d > 0), (-1, 2)).T
    axes.step(*edge, where="post", color=INK, alpha=0.2, linewidth=6, zorder=0)
    for count, seconds, value, colour in labels:
        beside = {"textcoords": "offset points", "xytext": (6, 4)}
        axes.annotate(f"{count:g}", (seconds, value), fontsize=SMALL, color=colour, **beside)
    if labels:  # a single point gives the axes no width
        seconds = np.concatenate([curve.x for curve in curves])
        ends = np.concatenate([[curve.low, curve.high] for curve in curves], axis=1)
        axes.set_xlim(seconds.min() / 1.5, seconds.max() * 1.5)
        axes.set_ylim(ends.min() / 1.5, ends.max() * 1.5)
    return axes


def draw(
    curves: Sequence[Curve], x_label: str, *, log_x: bool = False, log_y: bool = False
) -> "Axes":
    """Plot curves. Those with intervals and those of a single point have dots."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(8.6, 5.0), dpi=128).add_axes((0.09, 0.12, 0.67, 0.76))
    axes.set_xlabel(x_label)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    for x, y, colour, name, faint, low, high in curves:
        width, alpha = (0.7, 0.3) if faint else (1.6, 1.0)
        style = {"color": colour, "label": name, "linewidth": width, "alpha": alpha}
        style |= {"marker": "o" if low is not None or len(x) == 1 else "", "markersize": 4}
        if low is not None and high is not None:
            axes.errorbar(x, y, (y - low, high - y), **style)
        elif len(x):
            axes.plot(x, y, **style)
    low, high = axes.dataLim.intervaly
    if not log_y and high > 0 and (0 <= low <= high / 2 or low == high):
        axes.set_ylim(0, 1.06 * high)
    return axes


def save_png(axes: "Axes", path: Path, *, title: str, y_label: str) -> Path:
    """Write a plot as a PNG, with a title and a legend beside it."""
    axes.set_title(title, fontsize=TITLE, loc="left", pad=12)
    axes.set_ylabel(y_label)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=SMALL)
    with atomic_file(path) as writing:
        _finished(axes).savefig(writing, format="png")
    return path


def to_svg(axes: "Axes", label: str) -> str:
    """Return a plot as an `<svg>` in the colours of the page. label: for screen readers."""
    import matplotlib

    axes.set_position(SVG_FRAME)
    axes.xaxis.label.set_fontsize(SMALL)
    figure, content = _finished(axes), io.StringIO()
    figure.set_size_inches(SVG_SIZE)
    for artist in figure.findobj():
        artist.set_clip_on(False)  # no ids of clip paths
    form: Any = {"svg.fonttype": "none", "svg.hashsalt": label, "path.simplify_threshold": 1.0}
    with matplotlib.rc_context(form):
        figure.savefig(content, format="svg", transparent=True)
    _, _, svg = content.getvalue().partition("</metadata>")
    svg = re.sub(r"<style.*?</style>|<!--.*?-->|(?<=<g) id=\S+(?=>)", "", " ".join(svg.split()))
    svg = re.sub(r'font-(family|size): [^;"]*;? ?', "", svg)  # style.css has those of the page
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    width, height = (72 * inches for inches in SVG_SIZE)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
    return head + svg


def _finished(axes: "Axes") -> "Figure":
    """Return the figure with a grid and round numbers at the axes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        decades = math.log10(high / low) if axis.get_scale() == "log" else 0
        axis.set_minor_locator(NullLocator())
        if decades < 0.8:
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        else:
            digits = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
            axis.set_major_locator(LogLocator(subs=digits))
        axis.set_major_formatter(lambda value, position: format_tick(value))
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def format_tick(value: float) -> str:
    """Return a short text for an axis: 0.05, 1,500, 20k, 3e-05."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.6g}"


def series(
    rows: Sequence[Mapping[str, Any]], key: str, *, positive: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and the finite values of one column of a log, both (n,)."""
    pairs = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    usable = values > 0 if positive else slice(None)
    return steps[usable], values[usable]


def is_number(value: Any) -> bool:
    """Return whether a value of a log is a finite number that float64 can hold."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < LARGEST


def smooth(steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the geometric mean over the rows within ± 10 % of each step. Steps must ascend."""
    sums = np.concatenate([[0.0], np.cumsum(np.log(losses))])
    first = np.searchsorted(steps, steps * 0.9, side="left")
    last = np.searchsorted(steps, steps * 1.1, side="right")
    return np.exp((sums[last] - sums[first]) / (last - first))
