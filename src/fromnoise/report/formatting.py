"""Format numbers, settings and images for the page."""

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fromnoise.evaluation.intervals import Interval
from fromnoise.pictures import displayable, mosaic, to_pillow

MIN_SIDE = 56  # pixels on the page; smaller images are enlarged by an integer factor
COLUMNS = 8  # of a grid


def number(value: float, digits: int = 4) -> str:
    """Return a short text: 1234.5678 → 1,235; 0.00012345 → 0.0001234; 3 → 3."""
    if value == round(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def interval(score: Interval | None) -> tuple[str, str, str]:
    """Return value, low and high, with 3 digits of the value and 2 of the interval's width.

    12.3456 in [12.1, 12.623] → 12.35, 12.10, 12.62. Unknown numbers are "".
    """
    if score is None or math.isnan(score.value):
        return "", "", ""
    if math.isnan(score.low) or math.isnan(score.high):
        return number(score.value), "", ""
    precise = [(abs(score.value), 3), (score.high - score.low, 2)]
    decimals = [digits - 1 - math.floor(math.log10(v)) for v, digits in precise if v > 0]
    places = max([0, *decimals])
    value, low, high = (f"{v:,.{places}f}" for v in score)
    return value, low, high


def setting(value: Any) -> str:
    """Return a value as the recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(setting, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts(metadata: Mapping[str, Any]) -> str:
    """Return a dict in one line, without values that are None: `name ddim, steps 50`."""
    parts = []
    for key, value in metadata.items():
        if isinstance(value, Mapping):
            parts.append(facts(value))
        elif isinstance(value, float):
            parts.append(f"{key} {number(value)}")
        elif value is not None:
            parts.append(f"{key} {setting(value)}")
    return ", ".join(part for part in parts if part)


class InlineImage(NamedTuple):
    """An image inside the page: its URL, and its size there."""

    src: str
    width: int
    height: int
    file: str = ""  # the name of a file that is shown unchanged


def inline_grid(images: np.ndarray, columns: int = COLUMNS) -> InlineImage:
    """Return a grid of images with transparent gaps. Each image pixel is one pixel of the PNG.

    images: uint8 (N, C, H, W), N ≥ 1, or one (C, H, W). Channels are reduced to 1 or 3 as in
    `pictures`.
    """
    images = displayable(images if images.ndim == 4 else images[None])
    n, _, h, w = images.shape
    gap = 0 if n == 1 else max(1, w // 24)
    if gap:
        images = np.concatenate([images, np.full((n, 1, h, w), 255, np.uint8)], axis=1)  # opaque
    grid = mosaic(images, min(columns, n), gap, gap, fill=0)
    content = io.BytesIO()
    to_pillow(grid).save(content, "PNG", optimize=True)
    _, height, width = (math.ceil(MIN_SIDE / min(h, w)) * side for side in grid.shape)
    return InlineImage(_data_url(content.getvalue()), width, height)


def inline_png(file: Path) -> InlineImage:
    """Return a PNG file unchanged. Raises ValueError or OSError if it cannot be read."""
    with Image.open(file, formats=["PNG"]) as image:
        image.load()
        width, height = image.size
    return InlineImage(_data_url(file.read_bytes()), width, height, file.name)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
