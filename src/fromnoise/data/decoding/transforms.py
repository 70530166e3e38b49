"""Convert a decoded image of any depth to the requested channels and size, as uint8.

The order matters: first the channels, so that a grey image can be padded in colour; then the size,
in float for more than 8 bits; at last the rounding to 0..255.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from fromnoise.data.errors import DataError

Fit = Literal["crop", "pad", "squash"]
RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom

# ITU-R 601-2, the weights of PIL's convert("L").
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image of any depth: pixels (h, w, C) with values 0..peak; `peak` is white."""

    pixels: np.ndarray
    peak: float = 255

    @property
    def is_8_bit(self) -> bool:
        return self.pixels.dtype == np.uint8 and self.peak == 255


def to_channels(picture: Picture, channels: int) -> Picture:
    """Convert colour to luma, or repeat grey, if `channels` differs from those of the picture.

    Raises `DataError` for any other conversion.
    """
    have = picture.pixels.shape[2]
    if have == channels:
        return picture
    if have == 1 and channels == 3:
        return Picture(np.repeat(picture.pixels, 3, axis=2), picture.peak)
    if have == 3 and channels == 1:
        return Picture(_luma(picture), picture.peak)
    allowed = {1: "1 or 3 (grey repeated)", 3: "3 or 1 (luma)"}.get(have, str(have))
    raise DataError(
        f"data.channels is {channels}, but the images have {have}. Set it to {allowed}."
    )


def _luma(picture: Picture) -> np.ndarray:  # (h, w, 3) -> (h, w, 1)
    if picture.is_8_bit:
        grey = Image.fromarray(np.ascontiguousarray(picture.pixels)).convert("L")
        return np.asarray(grey)[..., None]
    return (picture.pixels.astype(np.float32) @ _LUMA)[..., None]


def fit_picture(
    picture: Picture,
    size: tuple[int, int],
    *,
    fit: Fit,
    background: RGB,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Resize a picture to `size` = (H, W) and return it as uint8 (C, H, W).

    - `crop` keeps the aspect ratio, covers the size, and cuts out the centre.
    - `pad` keeps the aspect ratio, shrinks larger pictures, and centres them on `background`.
    - `squash` ignores the aspect ratio.

    At scale 1 no pixel is resampled. `background` is RGB in 0..255. A picture without three
    channels gets its luma in each channel.
    """
    height, width = picture.pixels.shape[:2]
    inner, box = size, (0.0, 0.0, width, height)  # the result of resizing, and of which pixels
    if fit == "crop":
        box = _centre_box((height, width), size)
    elif fit == "pad":
        scale = min(1.0, size[0] / height, size[1] / width)
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        inner = (min(size[0], h), min(size[1], w))
    pixels = _resize(picture, inner, box, resampling)
    if fit == "pad":
        canvas = np.empty((*size, pixels.shape[2]), dtype=np.uint8)
        canvas[:] = background_of(pixels.shape[2], background)
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas[top : top + inner[0], left : left + inner[1]] = pixels
        pixels = canvas
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def background_of(channels: int, background: RGB) -> np.ndarray:
    """Return the background as uint8 (channels,): RGB for three channels, else luma in each."""
    if channels == 3:
        return np.array(background, dtype=np.uint8)
    luma = float(np.dot(background, _LUMA.astype(np.float64)))
    return np.full(channels, round(luma), dtype=np.uint8)


def _centre_box(have: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return the largest centred box with the aspect ratio of `size`."""
    (height, width), (out_height, out_width) = have, size
    if out_height * width >= out_width * height:  # too wide, or equal: use the full height
        box_height, box_width = height, out_width * height / out_height
    else:
        box_height, box_width = out_height * width / out_width, width
    top, left = (height - box_height) / 2, (width - box_width) / 2
    if (box_height, box_width) == (out_height, out_width):  # scale 1: cut between whole pixels
        top, left = top // 1, left // 1
    return left, top, min(width, left + box_width), min(height, top + box_height)


def _resize(
    picture: Picture, size: tuple[int, int], box: Box, resampling: Image.Resampling
) -> np.ndarray:
    """Return the pixels of a box as uint8 (H, W, C): v·255/peak rounded, v/257 for 16 bits."""
    left, top, right, bottom = box
    height, width = size
    pixels = picture.pixels

    def resized(plane: np.ndarray) -> np.ndarray:
        plane = np.ascontiguousarray(plane, None if picture.is_8_bit else np.float32)
        return np.asarray(Image.fromarray(plane).resize((width, height), resampling, box=box))

    if (bottom - top, right - left) == size and left % 1 == top % 1 == 0:
        pixels = pixels[int(top) : int(bottom), int(left) : int(right)]
    elif picture.is_8_bit and pixels.shape[2] == 3:
        pixels = resized(pixels)
    else:
        pixels = np.stack([resized(plane) for plane in np.moveaxis(pixels, 2, 0)], axis=-1)
    if picture.is_8_bit:
        return pixels
    scaled = pixels.astype(np.float64) * 255 / picture.peak
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)  # Lanczos overshoots at edges
