"""Arrays of images → picture files: single PNGs, grids, strips and animations.

Images are uint8 (N, C, H, W), red first. One channel is shown in grey and three in colour; of any
other number the first three are shown, of two the first. Pixels are enlarged by whole factors
and never interpolated, so that what is seen is what the model made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:  # matplotlib takes long to import: only the figures wait for it
    from matplotlib.figure import Figure

StrPath = str | os.PathLike[str]

WHITE = 255
TILE_SIDE = 48  # pixels; images of a smaller side are enlarged to at least this …
FIGURE_SIDE = 64  # … and in figures, which are drawn for dense screens, to this
DPI = 128  # a power of two, so that pixels / DPI · DPI is exact
MARGIN = 28  # pixels
TITLE, LABEL, CAPTION = 11, 9, 7  # points


# ---- images as files ----------------------------------------------------------------------------


def save_pngs(
    images: np.ndarray,
    folder: StrPath,
    names: Sequence[str],
    metadata: Sequence[Mapping[str, str]] | None = None,
) -> list[Path]:
    """Write each image without loss to folder/name.png, its text metadata inside.

    Args:
        images: uint8 (N, C, H, W).
        folder: made if missing; files of the same names are replaced.
        names: N file names without ".png".
        metadata: N mappings from keyword to text, or None.

    Returns:
        The N paths.

    Raises:
        ValueError: wrong dtype or shape, or another number of names or metadata than of images.
    """
    shown = _shown(images)
    metadata = [{}] * len(shown) if metadata is None else metadata
    if not len(shown) == len(names) == len(metadata):
        raise ValueError(f"{len(shown)} images, {len(names)} names, {len(metadata)} metadata")
    paths = [_ready(Path(folder) / f"{name}.png") for name in names]
    for image, path, texts in zip(shown, paths, metadata, strict=True):
        info = PngImagePlugin.PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text)
        _pil(image).save(path, pnginfo=info)
    return paths


def save_gif(
    frames: Sequence[np.ndarray],
    path: StrPath,
    *,
    milliseconds: int = 80,
    last_milliseconds: int = 2000,
) -> Path:
    """Write an endless animation; colours are reduced to the 256 that fit each frame best.

    Args:
        frames: uint8 (C, H, W), all of one shape, at least one.
        path: its folder is made if missing.
        milliseconds: each frame stays so long; GIF counts in steps of 10, and viewers slow
            down what is faster than 20.
        last_milliseconds: the last frame, the result, stays longer.

    Returns:
        The path.

    Raises:
        ValueError: no frame, wrong dtype, or shapes that differ.
    """
    if len(frames) == 0:
        raise ValueError("an animation needs at least one frame")
    first, *rest = [_pil(frame) for frame in _shown(np.stack(frames))]
    if first.mode == "RGB":
        first, *rest = [frame.quantize(256) for frame in (first, *rest)]
    durations = [milliseconds] * len(rest) + [last_milliseconds]
    path = _ready(path)
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)
    return path


def tile(images: np.ndarray, *, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Lay images out row by row in one picture, on white.

    Args:
        images: uint8 (N, C, H, W), N ≥ 1. Small ones are enlarged by a whole factor, until
            the smaller side has at least 48 pixels.
        columns: images per row, ≥ 1; by default as many as make the picture about square.
        gap: pixels between neighbours.

    Returns:
        uint8 (C, rows·(h + gap) − gap, columns·(w + gap) − gap) with C 1 or 3, and (h, w) the
        enlarged size.

    Raises:
        ValueError: wrong dtype or shape, no image, or columns < 1.
    """
    return _mosaic(_enlarged(images, TILE_SIDE), columns, gap, gap)


# ---- figures ------------------------------------------------------------------------------------


def grid_figure(
    images: np.ndarray,
    path: StrPath,
    *,
    title: str,
    captions: Sequence[str] | None = None,
    columns: int | None = None,
) -> Path:
    """Write a titled grid of images as a PNG.

    Args:
        images: uint8 (N, C, H, W), N ≥ 1.
        path: its folder is made if missing.
        title: stands above the grid.
        captions: N short texts, one below each image, of one or more lines.
        columns: images per row; by default as many as make the grid about square.

    Returns:
        The path.

    Raises:
        ValueError: as `tile`, or another number of captions than of images.
    """
    if captions is None:
        return grids_side_by_side([("", images)], path, title=title, columns=columns)
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    images = _enlarged(images, FIGURE_SIDE)
    h, w = images.shape[-2:]
    columns = columns or _square_columns(images)
    overhang = max(0, max(_text_width(caption, CAPTION) for caption in captions) + 6 - w)
    below = _line(CAPTION) * max(caption.count("\n") + 1 for caption in captions) + 8
    texts = [
        _Text(
            x=overhang // 2 + i % columns * (w + overhang + 4) + w // 2,
            y=i // columns * (h + below) + h + 3,
            text=caption,
            points=CAPTION,
            ha="center",
        )
        for i, caption in enumerate(captions)
    ]
    grid = _mosaic(images, columns, overhang + 4, below)
    size = (grid.shape[2] + overhang, grid.shape[1] + below)
    return _save_figure(path, title, size, [_Picture(overhang // 2, 0, grid)], texts)


def grids_side_by_side(
    panels: Sequence[tuple[str, np.ndarray]],
    path: StrPath,
    *,
    title: str,
    columns: int | None = None,
) -> Path:
    """Write grids beside each other as a PNG, each under its own title.

    Args:
        panels: pairs of a title and images, uint8 (N, C, H, W), N ≥ 1; at least one pair.
        path: its folder is made if missing.
        title: stands above all of them.
        columns: images per row of each grid; by default as many as make it about square.

    Returns:
        The path.

    Raises:
        ValueError: as `tile`.
    """
    pictures, texts, x, height = [], [], 0, 0
    top = _line(LABEL) + 6 if any(name for name, _ in panels) else 0
    for name, images in panels:
        grid = _mosaic(_enlarged(images, FIGURE_SIDE), columns, 2, 2)
        pictures.append(_Picture(x, top, grid))
        texts.append(_Text(x, 0, name))
        x += max(grid.shape[2], _text_width(name, LABEL)) + MARGIN
        height = max(height, top + grid.shape[1])
    return _save_figure(path, title, (x - MARGIN, height), pictures, texts)


def strip_figure(
    rows: Sequence[tuple[str, np.ndarray]],
    times: Sequence[int],
    path: StrPath,
    *,
    title: str,
) -> Path:
    """Write the denoising at chosen times as a PNG: a column a time, a row a quantity.

    Args:
        rows: pairs of a label, such as "x_t" or "predicted x_0", and that quantity at each
            time, uint8 (len(times), C, H, W). `$…$` in a label is set as mathematics.
        times: the t of each column, in the order of the columns.
        path: its folder is made if missing.
        title: stands above the strip.

    Returns:
        The path.

    Raises:
        ValueError: as `tile`, or a row with another number of images than of times.
    """
    for label, images in rows:
        if len(images) != len(times):
            raise ValueError(f"row {label!r} has {len(images)} images for {len(times)} times")
    images = _enlarged(np.concatenate([images for _, images in rows]), FIGURE_SIDE)
    h, w = images.shape[-2:]
    headings = [f"$t$ = {t}" for t in times]
    gap = max(4, max(_text_width(heading, CAPTION) for heading in headings) + 6 - w)
    left = max(_text_width(label, LABEL) for label, _ in rows) + 12
    top = _line(CAPTION) + 4
    texts = [
        _Text(left + j * (w + gap) + w // 2, 0, heading, points=CAPTION, ha="center")
        for j, heading in enumerate(headings)
    ]
    texts += [
        _Text(left - 12, top + i * (h + 4) + h // 2, label, ha="right", va="center")
        for i, (label, _) in enumerate(rows)
    ]
    grid = _mosaic(images, len(times), gap, 4)
    size = (left + grid.shape[2] + gap // 2, top + grid.shape[1])
    return _save_figure(path, title, size, [_Picture(left, top, grid)], texts)


# ---- from images to one picture -----------------------------------------------------------------


def _shown(images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) with the channels that can be shown, 1 or 3."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"expected uint8 (N, C, H, W), got {images.dtype} {images.shape}")
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1]


def _pil(image: np.ndarray) -> Image.Image:
    """An image (C, H, W) of 1 or 3 channels for Pillow."""
    return Image.fromarray(image[0] if len(image) == 1 else _channels_last(image))


def _channels_last(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _enlarged(images: np.ndarray, least: int) -> np.ndarray:
    """Images whose smaller side is at least `least`, each pixel repeated equally often."""
    images = _shown(images)
    factor = max(1, math.ceil(least / min(images.shape[-2:])))
    return images.repeat(factor, axis=2).repeat(factor, axis=3)


def _square_columns(images: np.ndarray) -> int:
    n, _, h, w = images.shape
    return min(n, math.ceil(math.sqrt(n * h / w)))


def _mosaic(images: np.ndarray, columns: int | None, gap_x: int, gap_y: int) -> np.ndarray:
    n, c, h, w = images.shape
    if n == 0:
        raise ValueError("there is no image to show")
    columns = _square_columns(images) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, c, h + gap_y, w + gap_x), WHITE, dtype=np.uint8)
    cells[:n, :, :h, :w] = images
    grid = cells.reshape(rows, columns, c, h + gap_y, w + gap_x).transpose(2, 0, 3, 1, 4)
    grid = grid.reshape(c, rows * (h + gap_y), columns * (w + gap_x))
    return grid[:, : grid.shape[1] - gap_y, : grid.shape[2] - gap_x]


# ---- pictures and texts on a canvas, in pixels from the upper left ------------------------------


class _Picture(NamedTuple):
    x: int
    y: int
    image: np.ndarray  # uint8 (C, H, W)


class _Text(NamedTuple):
    x: int
    y: int
    text: str
    points: int = LABEL
    ha: str = "left"
    va: str = "top"


def _save_figure(
    path: StrPath,
    title: str,
    size: tuple[int, int],
    pictures: Sequence[_Picture],
    texts: Sequence[_Text],
) -> Path:
    """Write what fills an area of `size` (width, height), with a title above and a margin."""
    top = MARGIN + _line(TITLE) + 10
    width = max(size[0], _text_width(title, TITLE)) + 2 * MARGIN
    height = top + size[1] + MARGIN
    figure = _blank(width, height)
    for x, y, image in pictures:
        # figimage copies pixels one to one; axes would resample them.
        pixels = np.broadcast_to(_channels_last(image), (*image.shape[1:], 3))
        bottom = height - top - y - image.shape[1]
        figure.figimage(pixels, MARGIN + x, bottom, origin="upper")
    for x, y, text, points, ha, va in [_Text(0, MARGIN - top, title, TITLE), *texts]:
        left, down = (MARGIN + x) / width, 1 - (top + y) / height
        figure.text(left, down, text, fontsize=points, ha=ha, va=va)
    path = _ready(path)
    figure.savefig(path)
    return path


def _blank(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def _text_width(text: str, points: int) -> int:
    return math.ceil(_blank(1, 1).text(0, 0, text, fontsize=points).get_window_extent().width)


def _line(points: int) -> int:
    """The height of a line of text in pixels."""
    return math.ceil(points * DPI / 72 * 1.2)


def _ready(path: StrPath) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
