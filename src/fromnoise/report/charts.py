"""Draw the charts of the page: training curves, a sampler sweep, bits by timestep."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from fromnoise import curves
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.records import Bits, Sweep, headings_in
from fromnoise.evaluation.sweep import drawn
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


def css_class(colour: str) -> str:
    """Return the class of style.css with this colour: `run1` …, `quarter1` …."""
    return curves.VARIABLES[colour].removeprefix("--")


def training_charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Return charts of the logged loss, scores, learning rate, speed and gradient norm."""

    def columns(key: str) -> list[Column]:
        return [(run.name, run.rows, key, run.colour) for run in runs]

    note = "As logged, and the geometric mean over ± 10 % of the step."
    charts = [_lines("Loss", columns("loss"), smoothed=True, note=note)]
    for run in runs:
        title = "Loss by noise level" + (f", {run.name}" if len(runs) > 1 else "")
        quarters = enumerate(zip(QUARTER_NAMES, curves.QUARTERS, strict=True), start=1)
        of_t = [(name, run.rows, f"loss_q{i}", colour) for i, (name, colour) in quarters]
        note = "The four quarters of t, smoothed."
        charts.append(_lines(title, of_t, smoothed=True, note=note))
        title = "Loss of held-out images" + (f", {run.name}" if len(runs) > 1 else "")
        kinds = (("held-out images", "held_out_loss"), ("trained images", "trained_loss"))
        colours = (run.colour, curves.QUARTERS[0])
        both = [(name, run.rows, key, c) for (name, key), c in zip(kinds, colours, strict=True)]
        note = (
            "EMA weights, the same noise at each checkpoint. If they diverge, the model memorizes."
        )
        charts.append(_lines(title, both, lambda v: f"lowest {v.min():.4g}", note=note))
    charts.append(_scores(runs))
    for key, title, value_of in (
        ("learning_rate", "Learning rate", lambda v: f"max {v.max():.3g}"),
        ("images_per_second", "Images per second", lambda v: f"median {np.median(v):,.0f}"),
        ("gradient_norm", "Gradient norm", lambda v: f"last {v[-1]:.2g}"),
    ):
        charts.append(_lines(title, columns(key), value_of))
    return [chart for chart in charts if chart is not None]


def sweep_chart(sweep: Sweep) -> Chart:
    """Return a chart of distance against time, with the Pareto front in grey."""
    lines, front = drawn(sweep.rows)
    coloured = zip(lines, cycle(curves.COLOURS), strict=False)
    legend = [(name, css_class(colour), "") for name, colour in coloured]
    title = f"{headings_in(sweep.extractor)['fid']} against time"
    svg = curves.to_svg(curves.sweep_axes(lines, front), title) if lines else ""
    return Chart(title, Markup(svg), legend, "Numbers are steps. Grey: the Pareto front.")


def bits_chart(bits: Bits, run: RunFolder) -> Chart:
    """Return a chart of the bits per dimension of each step against t."""
    title = f"Bits per dimension of each step, {run.name}"
    curve = [
        (of.first, of.last, *Interval(of.per_step, of.low, of.high).known())
        for of in bits.curve
        if of.per_step > 0
    ]
    svg = curves.to_svg(curves.bits_axes(curve, run.colour), title) if curve else ""
    note = "The point is L_0. Bands are 95 % intervals."
    return Chart(title, Markup(svg), note=note)


def _lines(
    title: str,
    columns: Iterable[Column],
    value_of: Callable[[np.ndarray], str] = lambda values: f"{values[-1]:.4f}",
    *,
    smoothed: bool = False,
    note: str = "",
) -> Chart | None:
    """Return a chart of columns, or None if none has values.

    value_of: formats the values of a curve for the legend.
    """
    lines, legend = [], []
    for name, rows, key, colour in columns:
        steps, values = curves.series(rows, key, positive=smoothed)
        if not len(steps):
            continue
        if key == "loss":
            lines.insert(0, curves.Curve(steps, values, colour, faint=True))
        values = curves.smooth(steps, values) if smoothed else values
        lines.append(curves.Curve(steps, values, colour))
        legend.append((name, css_class(colour), value_of(values)))
    if not lines:
        return None
    axes = curves.draw(lines, "training step", log_x=smoothed, log_y=smoothed)
    return Chart(title, Markup(curves.to_svg(axes, f"{title} against training step")), legend, note)


def _scores(runs: Sequence[RunFolder]) -> Chart | None:
    """Return a chart of the distances that `evaluation.every` logged, with their intervals."""
    lines, legend, kinds = [], [], set()
    for run in runs:
        if scores := run.scores():
            steps, values, low, high = np.array([score[:4] for score in scores]).T
            lines.append(curves.Curve(steps, values, run.colour, low=low, high=high))
            legend.append((run.name, css_class(run.colour), f"{values[-1]:.4g}"))
            kinds |= {score[4:] for score in scores}
    if not lines:
        return None
    [(extractor, count)] = kinds if len(kinds) == 1 else [("", 0)]
    title = f"{headings_in(extractor)['fid'] if extractor else 'Distance'} during training"
    note = f"{count:,} images, features: {extractor}" if extractor else "Features or numbers differ"
    log_y = all((curve.low > 0).all() for curve in lines)
    svg = curves.to_svg(curves.draw(lines, "training step", log_y=log_y), title)
    return Chart(title, Markup(svg), legend, f"{note}. Bars are 95 % intervals.")
