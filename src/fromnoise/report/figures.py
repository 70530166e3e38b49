"""Which charts the page shows: curves of the training, a sweep of samplers, bits by noise level."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from fromnoise.curves import smooth
from fromnoise.evaluation.records import HEADINGS, OF_INCEPTION
from fromnoise.report.charts import Axes, Line, Point, line_chart, point_chart
from fromnoise.report.measured import Bits, Sweep
from fromnoise.report.run_folder import RunFolder

COLOURS = 6  # of runs, in style.css; then from the first again
QUARTERS = ("quarter 1, least noise", "quarter 2", "quarter 3", "quarter 4, most noise")
STEPS, LOG_STEPS = Axes("training step"), Axes("training step", log_x=True, log_y=True)


class Key(NamedTuple):
    """A line of a legend."""

    name: str
    colour: str
    value: str = ""


class Chart(NamedTuple):
    """A chart with its title and legend."""

    title: str
    svg: Markup
    legend: list[Key]
    note: str = ""


def colour_of(index: int) -> str:
    """The class of the run's colour, by its place on the page."""
    return f"run{index % COLOURS + 1}"


def training_charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Loss, the same by noise level, scores, learning rate, speed, gradient: what is logged."""
    charts = [_loss(runs), *(_quarters(run, len(runs) > 1) for run in runs), _scores(runs)]
    charts += [
        _column(runs, "learning_rate", "Learning rate", lambda v: f"at most {v.max():.3g}"),
        _column(
            runs, "images_per_second", "Images per second", lambda v: f"median {np.median(v):,.0f}"
        ),
        _column(runs, "gradient_norm", "Gradient norm", lambda v: f"ends at {v[-1]:.2g}"),
    ]
    return [chart for chart in charts if chart.svg]


def distance_name(extractor: str) -> str:
    """The Fréchet distance is called FID in the features of Inception, and in no others."""
    return OF_INCEPTION["fid"] if extractor == "inception" else HEADINGS["fid"]


def sweep_chart(sweep: Sweep) -> Chart:
    """Distance against time, the ways that no other beats in both joined by a line."""
    scales = {row.guidance for row in sweep.rows}
    points, keys = [], {}
    for row in sweep.rows:
        value = row.fid.value
        if value is None:
            continue
        colour = keys.setdefault(row.sampler, colour_of(len(keys)))
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
        [Key(name, colour) for name, colour in keys.items()],
        "A number beside a point is its number of steps; filled points are not beaten in both.",
    )


def bits_chart(bits: Bits, name: str, colour: str) -> Chart:
    """What each step costs, by t."""
    shown = sorted((r.first + r.last, r.per_step) for r in bits.curve if r.per_step > 0)
    ends, cost = np.array(shown).reshape(-1, 2).T
    title = f"Bits per dimension of each step, {name}"
    axes = Axes("t", log_y=True)
    return Chart(title, line_chart([Line(name, ends / 2, cost, colour)], axes, title=title), [])


def _loss(runs: Sequence[RunFolder]) -> Chart:
    lines, legend = [], []
    for i, run in enumerate(runs):
        steps, losses = run.series("loss", positive=True)
        if len(steps):
            smooth, colour = smooth(steps, losses), colour_of(i)
            lines = [Line(run.name, steps, losses, colour, faint=True), *lines]
            lines.append(Line(run.name, steps, smooth, colour))
            legend.append(Key(run.name, colour, f"{smooth[-1]:.4f}"))
    svg = line_chart(lines, LOG_STEPS, title="Loss against training step")
    return Chart("Loss", svg, legend, "As logged, and its geometric mean over ± 10 % of the step.")


def _quarters(run: RunFolder, several: bool) -> Chart:
    lines, legend = [], []
    for quarter, levels in enumerate(QUARTERS, start=1):
        steps, losses = run.series(f"loss_q{quarter}", positive=True)
        if len(steps):
            smooth, colour = smooth(steps, losses), f"quarter{quarter}"
            lines.append(Line(levels, steps, smooth, colour))
            legend.append(Key(levels, colour, f"{smooth[-1]:.4f}"))
    title = f"Loss by noise level, {run.name}" if several else "Loss by noise level"
    svg = line_chart(lines, LOG_STEPS, title=title)
    return Chart(title, svg, legend, "The four quarters of t, smoothed.")


def _scores(runs: Sequence[RunFolder]) -> Chart:
    """The distances of `evaluation.every`, with their intervals."""
    points, keys, kinds = [], [], set()
    for i, run in enumerate(runs):
        scores = run.scores()
        points += [
            Point("", score.step, score.value, score.low, score.high, colour_of(i), len(runs) == 1)
            for score in scores
        ]
        kinds |= {(score.extractor, score.num_images) for score in scores}
        if scores:
            keys.append(Key(run.name, colour_of(i), f"{scores[-1].value:.4g}"))
    one = kinds.copy().pop() if len(kinds) == 1 else None
    name = distance_name(one[0]) if one else "Distance"
    title = f"{name} while training"
    note = f"{one[1]:,} images, features of {one[0]}" if one else "Features or numbers differ"
    axes = Axes("training step", log_y=all(point.low > 0 for point in points))
    svg = point_chart(points, axes, title=title)
    return Chart(title, svg, keys, f"{note}; with 95 % intervals.")


def _column(
    runs: Sequence[RunFolder], key: str, title: str, words: Callable[[np.ndarray], str]
) -> Chart:
    lines, legend = [], []
    for i, run in enumerate(runs):
        steps, values = run.series(key)
        if len(steps):
            lines.append(Line(run.name, steps, values, colour_of(i)))
            legend.append(Key(run.name, colour_of(i), words(values)))
    return Chart(title, line_chart(lines, STEPS, title=f"{title} against training step"), legend)
