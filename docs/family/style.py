"""Set the style of every picture of docs/family.md."""

import io
from pathlib import Path

import matplotlib
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ACCENT, SECOND, THIRD, GREY = "#d55e00", "#0072b2", "#009e73", "0.82"
COLOURS = 48  # of a picture; it keeps it at about 10 KB

LOOK = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.color": "0.93",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


def panels(title: str, count: int = 1, *, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels side by side under one title, 6.4 inches wide."""
    figure, axes = plt.subplots(
        1, count, figsize=(6.4, height), layout="constrained", squeeze=False
    )
    figure.suptitle(title)
    return figure, list(axes[0])


def save(figure: Figure, file: Path) -> None:
    """Write a PNG of few colours, with the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    shrink(buffer, file)


def shrink(source: io.BytesIO | Path, file: Path, *, colours: int = COLOURS) -> None:
    """Write a picture again with a palette, without metadata."""
    with Image.open(source) as image:
        few = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
