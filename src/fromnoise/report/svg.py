"""Draw small SVG charts that take their colours from the page, light or dark."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 480, 280  # SVG units, about pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
MAX_TICKS = 6


class Axes(NamedTuple):
    """The label below the chart, and which axes are logarithmic."""

    x: str
    log_x: bool = False
    log_y: bool = False


class Line(NamedTuple):
    """A curve with ascending x. colour: a class of style.css, `run1` … or `quarter1` …."""

    name: str
    x: np.ndarray  # (n,)
    y: np.ndarray  # (n,)
    colour: str
    faint: bool = False  # for a raw curve behind the smoothed one


class Point(NamedTuple):
    """A point with its interval."""

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: str
    filled: bool = True


def line_chart(lines: Sequence[Line], axes: Axes, *, title: str) -> Markup:
    """Return an SVG of curves, "" without curves. A curve with one point is a dot."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return Markup("")
    x = _Scale([v for line in lines for v in (line.x[0], line.x[-1])], axes.log_x, LEFT, -RIGHT)
    heights = [v for line in lines for v in (line.y.min(), line.y.max())]
    y = _Scale(heights, axes.log_y, -BOTTOM, TOP)
    body = [_curve(x(line.x), y(line.y), line.colour + " faint" * line.faint) for line in lines]
    return _add_axes(Markup("").join(body), x, y, axes.x, title)


def point_chart(points: Sequence[Point], axes: Axes, *, title: str) -> Markup:
    """Return an SVG of named points with intervals. A line joins the filled ones from the left."""
    if not points:
        return Markup("")
    x = _Scale([p.x for p in points], axes.log_x, LEFT + 20, -RIGHT - 20)
    heights = [v for p in points for v in (p.low, p.high)]
    y = _Scale(heights, axes.log_y, -BOTTOM - 6, TOP + 16)
    joined = np.array(sorted((p.x, p.y) for p in points if p.filled)).reshape(-1, 2)
    marks = [_curve(x(joined[:, 0]), y(joined[:, 1]), "thin joined")] if len(joined) > 1 else []
    for p in points:
        (px,), (py, low, high) = x(np.array([p.x])), y(np.array([p.y, p.low, p.high]))
        whisker = Markup('<path class="line thin {}" d="M{:.1f},{:.1f}V{:.1f}"/>')
        name = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>')
        marks.append(whisker.format(p.colour, px, low, high))
        marks.append(_dot(px, py, p.colour + " hollow" * (not p.filled)))
        marks.append(name.format(px, high - 6, p.name))
    return _add_axes(Markup("").join(marks), x, y, axes.x, title)


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Return at most six round numbers from low to high: 1, 2, 5 or powers of ten if log."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [d * 10.0**k for k in powers for d in digits]
            values = [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
            if 2 <= len(values) <= MAX_TICKS:
                return values
        if len(values) > MAX_TICKS:
            return values[:: math.ceil(len(values) / MAX_TICKS)]
    if high <= low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / MAX_TICKS))
    step = next(m * size for m in (1, 2, 5, 10) if (high - low) / (m * size) < MAX_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def format_tick(value: float) -> str:
    """Return a short text for an axis: 0.05, 1,500, 20k, 3e-05."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.6g}" if abs(value) >= 1e3 else f"{value:.6g}"


class _Scale:
    """A map from values to SVG units from `start` to `end`, counted from the far side if < 0."""

    def __init__(self, values: Sequence[float], log: bool, start: int, end: int) -> None:
        size = WIDTH if start > 0 else HEIGHT
        self.start, self.end = (v + size if v < 0 else v for v in (start, end))
        self.log = log
        low, high = float(min(values)), float(max(values))
        if low == high:  # put a single value in the middle
            low, high = (low / 2, high * 2) if log else (low - abs(low) / 2, high + abs(high) / 2)
        if low == high:
            low, high = -1.0, 1.0
        self.low, self.high = low, high
        if not log and start < 0:  # y axes start at 0 if the values are near it
            margin = 0.06 * (high - low)
            self.low = 0.0 if 0 <= low < 0.5 * high else low - margin
            self.high = high + margin

    def __call__(self, values: np.ndarray) -> np.ndarray:
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        fraction = ((np.log(values) if self.log else values) - low) / (high - low)
        return self.start + fraction * (self.end - self.start)

    def ticks(self) -> list[tuple[float, float]]:
        """Return round numbers and their positions."""
        values = ticks(self.low, self.high, log=self.log)
        return list(zip(values, self(np.array(values)).tolist(), strict=True))


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Return a path through all points, or the extremes per unit of x if there are many."""
    column = np.round(x)
    first = np.flatnonzero(np.diff(column, prepend=np.nan))
    if len(x) <= 3 * len(first):
        kept = range(len(x))
    else:
        parts = np.split(np.arange(len(x)), first[1:])
        kept = sorted({int(p[i]) for p in parts for i in (y[p].argmin(), y[p].argmax())})
    return "M" + "L".join(f"{x[i]:.1f},{y[i]:.1f}" for i in kept)


def _curve(x: np.ndarray, y: np.ndarray, classes: str) -> Markup:
    if len(x) == 1:
        return _dot(x[0], y[0], classes)
    return Markup('<path class="line {}" d="{}"/>').format(classes, _path(x, y))


def _dot(x: float, y: float, classes: str) -> Markup:
    return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(classes, x, y)


def _add_axes(body: Markup, x: "_Scale", y: "_Scale", x_label: str, title: str) -> Markup:
    """Return the chart with axes and a title for screen readers."""
    tick = Markup(
        '<path class="grid" d="{}"/><text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    )
    foot = HEIGHT - BOTTOM
    parts = []
    for value, position in x.ticks():
        line = f"M{position:.1f},{TOP}V{foot}"
        parts.append(tick.format(line, position, foot + 18, "middle", format_tick(value)))
    for value, position in y.ticks():
        line = f"M{LEFT},{position:.1f}H{WIDTH - RIGHT}"
        parts.append(tick.format(line, LEFT - 6, position + 4, "end", format_tick(value)))
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}'
        '<text x="{}" y="{}" text-anchor="middle">{}</text></svg>'
    ).format(
        *(WIDTH, HEIGHT, title, Markup("").join(parts), body),
        *((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label),
    )
