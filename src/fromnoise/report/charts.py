"""Draw the charts of the page: training curves, a sampler sweep, bits by timestep."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from fromnoise.curves import (
    COLOURS,
    QUARTERS,
    VARIABLES,
    Curve,
    bits_axes,
    draw,
    series,
    smooth,
    sweep_axes,
    to_svg,
)
from fromnoise.report.formatting import distance_name
from fromnoise.report.records import Bits, BitsPerStep, Interval, Sweep
from fromnoise.report.run_folder import RunFolder

QUARTER_NAMES = ("quarter 1, least noise", "quarter 2", "quarter 3", "quarter 4, most noise")


class Chart(NamedTuple):
    """A chart with its title, legend and note."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str, str]] = ()  # name, CSS class of the colour, value
    note: str = ""


Column = tuple[str, Sequence[Mapping[str, Any]], str, str]
"""A column of a log: the name of its curve, the rows, the key, and the colour."""


def run_colour(index: int) -> str:
    """Return a run's colour. index: its position on the page."""
    return COLOURS[index % len(COLOURS)]


def css_class(colour: str) -> str:
    """Return the class of style.css with this colour: `run1` …, `quarter1` …."""
    return VARIABLES[colour].removeprefix("--")


def training_charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Return charts of what is logged: loss, scores, learning rate, speed, gradient norm."""

    def columns(key: str) -> list[Column]:
        return [(run.name, run.rows, key, run_colour(i)) for i, run in enumerate(runs)]

    note = "As logged, and the geometric mean over ± 10 % of the step."
    charts = [_lines("Loss", columns("loss"), _last, smoothed=True, note=note)]
    for run in runs:
        title = "Loss by noise level" + (f", {run.name}" if len(runs) > 1 else "")
        quarters = enumerate(zip(QUARTER_NAMES, QUARTERS, strict=True), start=1)
        of_t = [(name, run.rows, f"loss_q{i}", colour) for i, (name, colour) in quarters]
        note = "The four quarters of t, smoothed."
        charts.append(_lines(title, of_t, _last, smoothed=True, note=note))
    charts.append(_scores(runs))
    for key, title, value_of in (
        ("learning_rate", "Learning rate", lambda v: f"max {v.max():.3g}"),
        ("images_per_second", "Images per second", lambda v: f"median {np.median(v):,.0f}"),
        ("gradient_norm", "Gradient norm", lambda v: f"last {v[-1]:.2g}"),
    ):
        charts.append(_lines(title, columns(key), value_of))
    return [chart for chart in charts if chart is not None]


def sweep_chart(sweep: Sweep) -> Chart:
    """Return distance against time, with the Pareto front in grey."""
    scales = {row.guidance for row in sweep.rows}
    lines: dict[str, list[tuple[float, ...]]] = {}
    front = []
    for row in sorted(sweep.rows, key=lambda row: row.steps):
        if (value := row.fid.value) is None:
            continue
        scale = f", s = {row.guidance:g}" if len(scales) > 1 and row.guidance is not None else ""
        point = (row.steps, row.seconds_per_image, *_interval(value, row.fid))
        lines.setdefault(row.sampler + scale, []).append(point)
        front += [(row.seconds_per_image, value)] * row.on_front
    legend = [(name, css_class(run_colour(i)), "") for i, name in enumerate(lines)]
    title = f"{distance_name(sweep.extractor)} against time"
    svg = to_svg(sweep_axes(lines, front), title) if lines else ""
    return Chart(title, Markup(svg), legend, "Numbers are steps. Grey: the Pareto front.")


def bits_chart(bits: Bits, name: str, colour: str) -> Chart:
    """Return the bits per dimension of each step against t."""
    title = f"Bits per dimension of each step, {name}"
    curve = [(r.first, r.last, *_interval(r.per_step, r)) for r in bits.curve if r.per_step > 0]
    note = "The point is L_0. Bands are 95 % intervals."
    return Chart(title, Markup(to_svg(bits_axes(curve, colour), title) if curve else ""), [], note)


def _interval(value: float, ends: Interval | BitsPerStep) -> tuple[float, float, float]:
    """Return the value and the ends of its interval, which is the value alone if unknown."""
    low, high = (value if end is None else end for end in (ends.low, ends.high))
    return value, low, high


def _last(values: np.ndarray) -> str:
    return f"{values[-1]:.4f}"


def _lines(
    title: str,
    columns: Iterable[Column],
    value_of: Callable[[np.ndarray], str],
    *,
    smoothed: bool = False,
    note: str = "",
) -> Chart | None:
    """Return a chart of columns, or None if none has values. value_of: for the legend."""
    curves, legend = [], []
    for name, rows, key, colour in columns:
        steps, values = series(rows, key, positive=smoothed)
        if not len(steps):
            continue
        if key == "loss":
            curves.insert(0, Curve(steps, values, colour, faint=True))
        values = smooth(steps, values) if smoothed else values
        curves.append(Curve(steps, values, colour))
        legend.append((name, css_class(colour), value_of(values)))
    if not curves:
        return None
    axes = draw(curves, "training step", log_x=smoothed, log_y=smoothed)
    return Chart(title, Markup(to_svg(axes, f"{title} against training step")), legend, note)


def _scores(runs: Sequence[RunFolder]) -> Chart | None:
    """Return the distances that `evaluation.every` logged, with their intervals."""
    curves, legend, kinds = [], [], set()
    for i, run in enumerate(runs):
        if scores := run.scores():
            steps, values, low, high = np.array([score[:4] for score in scores]).T
            curves.append(Curve(steps, values, run_colour(i), low=low, high=high))
            legend.append((run.name, css_class(run_colour(i)), f"{values[-1]:.4g}"))
            kinds |= {(score.extractor, score.num_images) for score in scores}
    if not curves:
        return None
    [(extractor, count)] = kinds if len(kinds) == 1 else [("", 0)]
    title = f"{distance_name(extractor) if extractor else 'Distance'} during training"
    note = f"{count:,} images, features: {extractor}" if extractor else "Features or numbers differ"
    log_y = all((curve.low > 0).all() for curve in curves)
    svg = to_svg(draw(curves, "training step", log_y=log_y), title)
    return Chart(title, Markup(svg), legend, f"{note}. Bars are 95 % intervals.")
