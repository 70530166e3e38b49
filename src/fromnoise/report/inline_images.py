"""Turn arrays and PNG files into `data:` URLs inside the page."""

import base64
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

MIN_SIDE = 56  # pixels on the page; smaller images are enlarged by an integer factor


class InlineImage(NamedTuple):
    """An `<img>` with its URL, alternative text and size on the page."""

    src: str
    alt: str
    width: int
    height: int
    pixelated: bool = True


def inline_grid(images: np.ndarray, alt: str, *, columns: int = 1) -> InlineImage:
    """Return a grid of images with transparent gaps. Each image pixel is one pixel of the PNG.

    images: uint8 (N, C, H, W), N ≥ 1. Channels are reduced to 1 or 3 as in `pictures`.
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
    pixels = np.ascontiguousarray(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas)
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    factor = math.ceil(MIN_SIDE / min(h, w))
    height, width = canvas.shape[:2]
    return InlineImage(_data_url(content.getvalue()), alt, width * factor, height * factor)


def inline_png(file: Path, alt: str) -> InlineImage:
    """Return a PNG file unchanged. Raises ValueError or OSError if it cannot be read."""
    with Image.open(file, formats=["PNG"]) as image:
        image.load()
        width, height = image.size
    return InlineImage(_data_url(file.read_bytes()), alt, width, height, pixelated=False)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
