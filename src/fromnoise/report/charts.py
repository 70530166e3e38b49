"""Draw the charts of the page: training curves, a sampler sweep, bits by timestep."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from fromnoise.curves import smooth
from fromnoise.report.formatting import distance_name
from fromnoise.report.records import Bits, Sweep
from fromnoise.report.run_folder import RunFolder
from fromnoise.report.svg import Axes, Line, Point, line_chart, point_chart

COLOURS = 6  # of runs in style.css, used in turn
QUARTERS = ("quarter 1, least noise", "quarter 2", "quarter 3", "quarter 4, most noise")
STEPS, LOG_STEPS = Axes("training step"), Axes("training step", log_x=True, log_y=True)


class LegendEntry(NamedTuple):
    """An entry of a legend."""

    name: str
    colour: str
    value: str = ""


class Chart(NamedTuple):
    """A chart with its title, legend and note."""

    title: str
    svg: Markup
    legend: list[LegendEntry]
    note: str = ""


def run_colour(index: int) -> str:
    """Return the CSS class of a run's colour. index: its position on the page."""
    return f"run{index % COLOURS + 1}"


def training_charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Return charts of what is logged: loss, scores, learning rate, speed, gradient norm."""
    charts = [_loss(runs), *(_quarters(run, len(runs) > 1) for run in runs), _scores(runs)]
    charts += [
        _column_chart(runs, "learning_rate", "Learning rate", lambda v: f"max {v.max():.3g}"),
        _column_chart(
            runs, "images_per_second", "Images per second", lambda v: f"median {np.median(v):,.0f}"
        ),
        _column_chart(runs, "gradient_norm", "Gradient norm", lambda v: f"last {v[-1]:.2g}"),
    ]
    return [chart for chart in charts if chart.svg]


def sweep_chart(sweep: Sweep) -> Chart:
    """Return distance against time. A line joins the Pareto front."""
    scales = {row.guidance for row in sweep.rows}
    points, colours = [], {}
    for row in sweep.rows:
        value = row.fid.value
        if value is None:
            continue
        colour = colours.setdefault(row.sampler, run_colour(len(colours)))
        low, high = (value if end is None else end for end in (row.fid.low, row.fid.high))
        name = str(row.steps)
        if len(scales) > 1 and row.guidance is not None:
            name += f", s = {row.guidance:g}"
        points.append(Point(name, row.seconds_per_image, value, low, high, colour, row.on_front))
    positive = all(point.low > 0 for point in points)
    axes = Axes("seconds per image", log_x=True, log_y=positive)
    title = f"{distance_name(sweep.extractor)} against time"
    return Chart(
        title,
        point_chart(points, axes, title=title),
        [LegendEntry(name, colour) for name, colour in colours.items()],
        "Numbers beside points are steps. Filled points are on the Pareto front.",
    )


def bits_chart(bits: Bits, name: str, colour: str) -> Chart:
    """Return the bits per dimension of each step against t."""
    rows = sorted((r.first + r.last, r.per_step) for r in bits.curve if r.per_step > 0)
    ends, per_step = np.array(rows).reshape(-1, 2).T
    title = f"Bits per dimension of each step, {name}"
    axes = Axes("t", log_y=True)
    return Chart(title, line_chart([Line(name, ends / 2, per_step, colour)], axes, title=title), [])


def _loss(runs: Sequence[RunFolder]) -> Chart:
    lines, legend = [], []
    for i, run in enumerate(runs):
        steps, losses = run.series("loss", positive=True)
        if len(steps):
            smoothed, colour = smooth(steps, losses), run_colour(i)
            lines = [Line(run.name, steps, losses, colour, faint=True), *lines]
            lines.append(Line(run.name, steps, smoothed, colour))
            legend.append(LegendEntry(run.name, colour, f"{smoothed[-1]:.4f}"))
    svg = line_chart(lines, LOG_STEPS, title="Loss against training step")
    return Chart("Loss", svg, legend, "As logged, and the geometric mean over ± 10 % of the step.")


def _quarters(run: RunFolder, several: bool) -> Chart:
    lines, legend = [], []
    for quarter, name in enumerate(QUARTERS, start=1):
        steps, losses = run.series(f"loss_q{quarter}", positive=True)
        if len(steps):
            smoothed, colour = smooth(steps, losses), f"quarter{quarter}"
            lines.append(Line(name, steps, smoothed, colour))
            legend.append(LegendEntry(name, colour, f"{smoothed[-1]:.4f}"))
    title = f"Loss by noise level, {run.name}" if several else "Loss by noise level"
    svg = line_chart(lines, LOG_STEPS, title=title)
    return Chart(title, svg, legend, "The four quarters of t, smoothed.")


def _scores(runs: Sequence[RunFolder]) -> Chart:
    """Return the distances that `evaluation.every` logged, with their intervals."""
    points, legend, kinds = [], [], set()
    for i, run in enumerate(runs):
        scores = run.scores()
        points += [
            Point("", score.step, score.value, score.low, score.high, run_colour(i), len(runs) == 1)
            for score in scores
        ]
        kinds |= {(score.extractor, score.num_images) for score in scores}
        if scores:
            legend.append(LegendEntry(run.name, run_colour(i), f"{scores[-1].value:.4g}"))
    [kind] = kinds if len(kinds) == 1 else [None]
    name = distance_name(kind[0]) if kind else "Distance"
    title = f"{name} during training"
    note = f"{kind[1]:,} images, features: {kind[0]}" if kind else "Features or numbers differ"
    axes = Axes("training step", log_y=all(point.low > 0 for point in points))
    svg = point_chart(points, axes, title=title)
    return Chart(title, svg, legend, f"{note}. Bars are 95 % intervals.")


def _column_chart(
    runs: Sequence[RunFolder], key: str, title: str, summarize: Callable[[np.ndarray], str]
) -> Chart:
    lines, legend = [], []
    for i, run in enumerate(runs):
        steps, values = run.series(key)
        if len(steps):
            lines.append(Line(run.name, steps, values, run_colour(i)))
            legend.append(LegendEntry(run.name, run_colour(i), summarize(values)))
    return Chart(title, line_chart(lines, STEPS, title=f"{title} against training step"), legend)
