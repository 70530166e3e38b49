"""Decode all 16 bits of a PNG or TIFF, of which Pillow unpacks the high bytes only."""

import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from fromnoise.data.decoding.rotation import upright
from fromnoise.data.errors import BrokenImage

_PNG_16_BIT = {"RGB;16B": "RGB", "RGBA;16B": "RGBA", "LA;16B": "LA"}
BITS_PER_SAMPLE, PHOTOMETRIC, _PLANES = 258, 262, 284  # tags of TIFF
# The other order of the two bytes of a sample. N is that of the machine.
_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def png_raw_mode(image: Image.Image) -> str:
    """Return how a PNG stores its samples, such as "RGB;16B", and "" for other files."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if image.format == "PNG" and tiles else ""


def clipped_mode(image: Image.Image) -> str | None:
    """Return the mode of a PNG or TIFF of 16 bits of which Pillow unpacks the high bytes only.

    Raises `BrokenImage` for separate planes that Pillow misreads.
    """
    tags, tiles = getattr(image, "tag_v2", None), getattr(image, "tile", None)
    if image.format != "TIFF" or not tags or not tiles:
        return _PNG_16_BIT.get(png_raw_mode(image))
    separate, is_16_bit = tags.get(_PLANES) == 2, set(tags.get(BITS_PER_SAMPLE, ())) == {16}
    by_libtiff, (raw_mode, *_) = tiles[0].codec_name == "libtiff", tiles[0].args
    readable = image.mode in ("RGB", "RGBA")
    if separate and (image.mode == "LA" or (is_16_bit and not by_libtiff and not readable)):
        raise BrokenImage(f"its planes are separate ({image.mode}). Store them together")
    exact = readable and is_16_bit and not raw_mode.startswith("RGBa")  # that is divided by alpha
    return image.mode if exact and not (separate and by_libtiff) else None


def all_bits(data: bytes, mode: str) -> np.ndarray:  # -> uint16 (h, w, len(mode))
    """Decode all 16 bits, by decoding the same bytes with other raw modes.

    Big-endian samples decoded as little-endian give the low bytes. The four bytes of 16-bit LA
    decoded as 8-bit RGBA give (L high, L low, A high, A low).
    """
    if mode == "LA":
        planes = _bytes(data, lambda raw_mode, order: "RGBA").astype(np.uint16)
        return planes[..., 0::2] << 8 | planes[..., 1::2]

    def of_16_bit(raw_mode: str, order: str, *, low: bool) -> str:
        channels, _, own = raw_mode.partition(";16")  # a plane has the raw mode of 8 bits
        return f"{channels};16{_SWAPPED[own or order] if low else own or order}"

    high, low = (_bytes(data, partial(of_16_bit, low=low)) for low in (False, True))
    return high.astype(np.uint16) << 8 | low


def _bytes(data: bytes, raw_mode: Callable[[str, str], str]) -> np.ndarray:
    """Decode with other raw modes. `raw_mode` gets that of a tile, and the order L or B."""
    with Image.open(io.BytesIO(data)) as image:
        decoder: Any = image  # `tile` is not declared on Image
        order, tiles = "L" if data[:2] == b"II" else "B", []
        for tile in decoder.tile:
            own, *others = [tile.args] if isinstance(tile.args, str) else tile.args
            args = raw_mode(own, order), *others
            tiles.append(tile._replace(args=args if others else args[0]))
        decoder.tile = tiles
        return np.asarray(upright(image))
