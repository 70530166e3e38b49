"""Pictures inside the page: arrays and PNG files → `data:` addresses."""

import base64
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SHOWN_SIDE = 56  # pixels on the page that a small image has at least, by a whole factor


class Picture(NamedTuple):
    """An `<img>`: where its pixels are, what it shows, and its size on the page."""

    src: str
    alt: str
    width: int
    height: int
    pixelated: bool = True


def picture(images: np.ndarray, alt: str, *, columns: int = 1) -> Picture:
    """Images as one picture, row by row, every pixel once and what is between them transparent.

    images: uint8 (N, C, H, W), N ≥ 1; of other than 1 or 3 channels what `pictures` shows of them.
    """
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    n, c, h, w = images.shape
    columns = min(columns, n)
    gap = 0 if n == 1 else max(1, w // 24)
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, c + 1, h + gap, w + gap), dtype=np.uint8)
    cells[:n, :c, :h, :w] = images
    cells[:n, c, :h, :w] = 255  # opaque
    canvas = cells.reshape(rows, columns, c + 1, h + gap, w + gap).transpose(0, 3, 1, 4, 2)
    canvas = canvas.reshape(rows * (h + gap), columns * (w + gap), c + 1)
    canvas = canvas[: len(canvas) - gap, : canvas.shape[1] - gap]
    if gap == 0:
        canvas = canvas[..., :c]
    content = io.BytesIO()
    shown = np.ascontiguousarray(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas)
    Image.fromarray(shown).save(content, "PNG", optimize=True)
    factor = math.ceil(SHOWN_SIDE / min(h, w))
    height, width = canvas.shape[:2]
    return Picture(_address(content.getvalue()), alt, width * factor, height * factor)


def picture_file(file: Path, alt: str) -> Picture:
    """A PNG file as it is. Raises ValueError or OSError where it is none."""
    with Image.open(file, formats=["PNG"]) as image:
        image.load()
        width, height = image.size
    return Picture(_address(file.read_bytes()), alt, width, height, pixelated=False)


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
