"""A sweep as a picture: distance to the real images against seconds an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.evaluation.label_scores import Interval

COLOURS = ("#d1495b", "#2f6f9f", "#3f9b6e", "#b07d2b", "#7a5195", "#555555")
TITLE, SMALL = 11, 8  # points


class Row(NamedTuple):
    """What one way of sampling costs, and how near its images come to the real ones."""

    sampler: str
    steps: int
    guidance: float
    seconds_per_image: float
    fid: Interval  # the Fréchet distance in the features of an extractor


def sweep_figure(
    rows: Sequence[Row], on_front: Sequence[bool], path: Path, *, extractor: str
) -> Path:
    """Write a point with its 95 % interval for each row as a PNG, both axes logarithmic.

    Points of one sampler and scale have a colour and a line; each tells its steps. The front is
    drawn in grey below them. Rows whose distance is not positive have no place on the axis and are
    left out.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8.6, 5.0), dpi=128, facecolor="white")
    axes = figure.add_axes((0.09, 0.12, 0.67, 0.76))
    axes.set(xscale="log", yscale="log", xlabel="seconds an image")
    distance = "FID" if extractor == "inception" else f"Fréchet distance, features of {extractor}"
    axes.set_ylabel(f"{distance} (less is better)")
    shown = [(row, best) for row, best in zip(rows, on_front, strict=True) if row.fid.value > 0]
    edge = sorted((row.seconds_per_image, row.fid.value) for row, best in shown if best)
    axes.step(*np.reshape(edge, (-1, 2)).T, where="post", color="0.85", linewidth=6, zorder=0)
    kinds = list(dict.fromkeys((row.sampler, row.guidance) for row, _ in shown))
    for kind, colour in zip(kinds, COLOURS * len(kinds), strict=False):
        points = sorted(
            (row for row, _ in shown if (row.sampler, row.guidance) == kind),
            key=lambda row: row.steps,
        )
        x, y = [row.seconds_per_image for row in points], [row.fid.value for row in points]
        # an interval that reaches 0 or below ends at the edge of a logarithmic axis
        low = [row.fid.value - max(row.fid.low, row.fid.value / 100) for row in points]
        high = [row.fid.high - row.fid.value for row in points]
        sampler, guidance = kind
        label = sampler if guidance == 1 else f"{sampler}, s = {guidance:g}"
        axes.errorbar(x, y, (low, high), color=colour, label=label, marker="o", markersize=4)
        for row in points:
            axes.annotate(
                str(row.steps),
                (row.seconds_per_image, row.fid.value),
                textcoords="offset points",
                xytext=(6, 4),
                fontsize=SMALL,
                color=colour,
            )
    if shown:  # a single point would leave the axes without a width
        seconds = [row.seconds_per_image for row, _ in shown]
        axes.set_xlim(min(seconds) / 1.5, max(seconds) * 1.5)
        axes.set_ylim(
            min(max(row.fid.low, row.fid.value / 100) for row, _ in shown) / 1.5,
            max(row.fid.high for row, _ in shown) * 1.5,
        )
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=SMALL)
    axes.set_title(
        "Quality against cost: the numbers are steps, grey the front", fontsize=TITLE, loc="left"
    )
    axes.grid(color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
