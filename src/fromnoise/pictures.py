"""Write arrays of images as picture files: single PNGs, grids, strips and animations.

Images are uint8 (N, C, H, W), RGB. One channel is shown in grey, three in colour. With two channels
only the first is shown, with more than three the first three. Pixels are enlarged by integer
factors and never interpolated.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

from fromnoise.checkpoints import atomic_file

if TYPE_CHECKING:  # slow to import, so only the figures import it
    from matplotlib.figure import Figure

WHITE = 255
TILE_SIDE = 48  # pixels; images with a smaller side are enlarged to at least this
FIGURE_SIDE = 64  # the same in figures, which are drawn for dense screens
DPI = 128  # a power of two, so that pixels / DPI · DPI is exact
MARGIN = 28  # pixels
TITLE, LABEL, CAPTION = 11, 9, 7  # points
FRAME, LAST_FRAME = 80, 2000  # milliseconds in an animation
SAMPLE = re.compile(r"\d{6,}(-.*)?\.png")  # named by its seed
NOT_OURS = "no metadata of fromnoise sample"
SHOWN_WHOLE = (1, 3)  # channels that a PNG holds
OF_ONE_IMAGE = ("seed", "labels")  # the metadata in which samples of one set may differ


# ---- images as files ----------------------------------------------------------------------------


def save_pngs(
    images: np.ndarray, folder: Path, names: Sequence[str], metadata: Sequence[Mapping[str, str]]
) -> list[Path]:
    """Write each image as folder/name.png, with a mapping from keyword to text as metadata.

    images: uint8 (N, C, H, W), or uint16 (N, 1, H, W). Files of the same names are replaced.
    Raises ValueError if the numbers of images, names and metadata differ, and DiskFull.
    """
    paths = [folder / f"{name}.png" for name in names]
    shown = images if images.dtype == np.uint16 else displayable(images)
    for image, path, texts in zip(shown, paths, metadata, strict=True):
        info = PngImagePlugin.PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text)
        with atomic_file(path, sync=False) as writing:
            to_pillow(image).save(writing, "PNG", pnginfo=info)
    return paths


def save_npz(
    images: np.ndarray, folder: Path, cond: np.ndarray | None = None, *, tag: str = ""
) -> Path:
    """Write images (N, C, H, W) as samples_NxHxWxC.npz: `arr_0`, and int8 (N, K) labels `arr_1`.

    tag: the end of the name.
    """
    arrays = {"arr_0": images.transpose(0, 2, 3, 1)} | ({} if cond is None else {"arr_1": cond})
    path = folder / f"samples_{'x'.join(map(str, arrays['arr_0'].shape))}{tag}.npz"
    with atomic_file(path) as writing, writing.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def samples_in(folder: Path) -> dict[str, dict[str, str]]:
    """Return the metadata of each PNG that is named as a sample, by file name, in order.

    It is empty for a file that `fromnoise sample` did not write, and for a broken one.
    """
    found = {}
    for name in sorted(file.name for file in folder.iterdir() if SAMPLE.fullmatch(file.name)):
        found[name] = {}
        with suppress(OSError), Image.open(folder / name) as image:
            texts = {key: text for key, text in image.info.items() if isinstance(text, str)}
            if texts.get("software") == "fromnoise" and "seed" in texts:
                found[name] = texts
    return found


def difference(sample: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """Return the first setting that two samples do not share, as `steps = 20, not 50`, or None."""
    if "model" in other and "model" not in sample:
        return "no model in its metadata, because an earlier fromnoise wrote it"
    for key in [key for key in {**other, **sample} if key not in OF_ONE_IMAGE]:
        if sample.get(key) != other.get(key):
            return f"{key} = {sample.get(key, 'none')}, not {other.get(key, 'none')}"
    return None


def save_gif(frames: Sequence[np.ndarray], path: Path) -> Path:
    """Write an endlessly looping GIF, of at least one frame, each uint8 (C, H, W) of one shape.

    Colours are reduced to the best 256 of each frame.
    """
    first, *rest = [to_pillow(frame) for frame in displayable(np.stack(frames))]
    if first.mode == "RGB":
        first, *rest = [frame.quantize(256) for frame in (first, *rest)]
    durations = [FRAME] * len(rest) + [LAST_FRAME]
    how: dict[str, Any] = {"append_images": rest, "duration": durations, "loop": 0}
    with atomic_file(path) as writing:
        first.save(writing, "GIF", save_all=True, **how)
    return path


def tile(images: np.ndarray) -> np.ndarray:
    """Arrange images, uint8 (N, C, H, W) with N ≥ 1, in one picture (C, rows, columns) on white.

    It is about square. Small images are enlarged by an integer factor, until the smaller side has
    at least 48 pixels.
    """
    return mosaic(_enlarge(images, TILE_SIDE), None, 2, 2)


# ---- figures ------------------------------------------------------------------------------------


def grid_figure(
    images: np.ndarray,
    path: Path,
    *,
    title: str,
    captions: Sequence[str] | None = None,
    columns: int | None = None,
) -> Path:
    """Write a titled grid of images as a PNG.

    images: uint8 (N, C, H, W), N ≥ 1. captions: N short texts, one below each image, each of one or
    more lines. columns: images per row. By default the grid is about square.
    """
    if captions is None:
        return grids_side_by_side([("", images)], path, title=title, columns=columns)
    images = _enlarge(images, FIGURE_SIDE)
    h, w = images.shape[-2:]
    columns = columns or _square_columns(images)
    overhang = max(0, max(_text_width(caption, CAPTION) for caption in captions) + 6 - w)
    below = _line_height(CAPTION) * max(caption.count("\n") + 1 for caption in captions) + 8
    grid = mosaic(images, columns, overhang + 4, below)
    figure = _Figure(title, grid.shape[2] + overhang, grid.shape[1] + below)
    figure.add_image(overhang // 2, 0, grid)
    for i, caption in zip(range(len(images)), captions, strict=True):
        x = overhang // 2 + i % columns * (w + overhang + 4) + w // 2
        figure.add_text(x, i // columns * (h + below) + h + 3, caption, CAPTION, ha="center")
    return figure.save(path)


def grids_side_by_side(
    panels: Sequence[tuple[str, np.ndarray]], path: Path, *, title: str, columns: int | None = None
) -> Path:
    """Write grids side by side as a PNG, each under its own title.

    panels: at least one pair of a title and images, as in `grid_figure`. columns: of each grid.
    """
    grids = [mosaic(_enlarge(images, FIGURE_SIDE), columns, 2, 2) for _, images in panels]
    top = _line_height(LABEL) + 6 if any(name for name, _ in panels) else 0
    names = [_text_width(name, LABEL) for name, _ in panels]
    widths = [max(grid.shape[2], w) for grid, w in zip(grids, names, strict=True)]
    lefts = [0, *accumulate(width + MARGIN for width in widths)]
    height = top + max(grid.shape[1] for grid in grids)
    figure = _Figure(title, lefts[-1] - MARGIN, height)
    for x, (name, _), grid in zip(lefts, panels, grids, strict=False):
        figure.add_image(x, top, grid)
        figure.add_text(x, 0, name)
    return figure.save(path)


def strip_figure(
    rows: Sequence[tuple[str, np.ndarray]], timesteps: Sequence[int], path: Path, *, title: str
) -> Path:
    """Write a denoising trajectory as a PNG: one column per timestep, one row per quantity.

    rows: pairs of a label, such as "predicted $x_0$", and that quantity at each of the timesteps,
    uint8 (len(timesteps), C, H, W).
    """
    images = _enlarge(np.concatenate([images for _, images in rows]), FIGURE_SIDE)
    h, w = images.shape[-2:]
    headings = [f"$t$ = {t}" for t in timesteps]
    gap = max(4, max(_text_width(heading, CAPTION) for heading in headings) + 6 - w)
    left = max(_text_width(label, LABEL) for label, _ in rows) + 12
    top = _line_height(CAPTION) + 4
    grid = mosaic(images, len(timesteps), gap, 4)
    figure = _Figure(title, left + grid.shape[2] + gap // 2, top + grid.shape[1])
    figure.add_image(left, top, grid)
    for j, heading in enumerate(headings):
        figure.add_text(left + j * (w + gap) + w // 2, 0, heading, CAPTION, ha="center")
    for i, (label, _) in enumerate(rows):
        figure.add_text(left - 12, top + i * (h + 4) + h // 2, label, ha="right", va="center")
    return figure.save(path)


def literal(text: str) -> str:
    """Escape each "$" of a text, such as a label, so that it does not begin a formula."""
    return text.replace("$", r"\$")


class _Figure:
    """A figure of `width` × `height` pixels below a title, with a margin around them.

    Positions are in pixels from the upper left corner.
    """

    def __init__(self, title: str, width: int, height: int) -> None:
        self.top = MARGIN + _line_height(TITLE) + 10
        self.width = max(width, _text_width(title, TITLE)) + 2 * MARGIN
        self.height = self.top + height + MARGIN
        self.figure = _blank_figure(self.width, self.height)
        self.add_text(0, MARGIN - self.top, title, TITLE)

    def add_image(self, x: int, y: int, image: np.ndarray) -> None:
        """Add an image, uint8 (C, H, W), without the resampling of matplotlib's axes."""
        pixels = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
        bottom = self.height - self.top - y - image.shape[1]
        self.figure.figimage(pixels, MARGIN + x, bottom, origin="upper")

    def add_text(
        self, x: int, y: int, text: str, points: int = LABEL, ha: str = "left", va: str = "top"
    ) -> None:
        left, down = (MARGIN + x) / self.width, 1 - (self.top + y) / self.height
        self.figure.text(left, down, text, fontsize=points, ha=ha, va=va)

    def save(self, path: Path) -> Path:
        with atomic_file(path) as writing:
            self.figure.savefig(writing, format="png")
        return path


def _blank_figure(width: int, height: int) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def _text_width(text: str, points: int) -> int:
    """Return the width of a text in pixels."""
    drawn = _blank_figure(1, 1).text(0, 0, text, fontsize=points)
    return math.ceil(drawn.get_window_extent().width)


def _line_height(points: int) -> int:
    """Return the height of a line of text in pixels."""
    return math.ceil(points * DPI / 72 * 1.2)


# ---- arrays of pixels ---------------------------------------------------------------------------


def displayable(images: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) with 1 or 3 channels. Raises ValueError unless they are uint8."""
    if images.dtype != np.uint8:
        raise ValueError(f"the images are {images.dtype}. Give uint8.")
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1]


def to_pillow(image: np.ndarray) -> Image.Image:
    """Return an image (C, H, W), grey or RGB, with or without an alpha channel, for Pillow."""
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy())


def _enlarge(images: np.ndarray, min_side: int) -> np.ndarray:
    """Return images whose smaller side is at least `min_side`, enlarged by an integer factor."""
    images = displayable(images)
    factor = max(1, math.ceil(min_side / min(images.shape[-2:])))
    return images.repeat(factor, axis=2).repeat(factor, axis=3)


def _square_columns(images: np.ndarray) -> int:
    n, _, h, w = images.shape
    return min(n, math.ceil(math.sqrt(n * h / w)))


def mosaic(
    images: np.ndarray, columns: int | None, gap_x: int, gap_y: int, *, fill: int = WHITE
) -> np.ndarray:
    """Return images (N, C, H, W) row by row, with gaps of the value `fill`: (C, rows, columns)."""
    n, c, h, w = images.shape
    columns = columns or _square_columns(images)
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, c, h + gap_y, w + gap_x), fill, dtype=np.uint8)
    cells[:n, :, :h, :w] = images
    grid = cells.reshape(rows, columns, c, h + gap_y, w + gap_x).transpose(2, 0, 3, 1, 4)
    grid = grid.reshape(c, rows * (h + gap_y), columns * (w + gap_x))
    return grid[:, : grid.shape[1] - gap_y, : grid.shape[2] - gap_x]
