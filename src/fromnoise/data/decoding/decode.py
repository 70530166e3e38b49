"""An image file to a `Picture`: rotation, transparency, palettes, CMYK and 16 bits put right.

Colour profiles (ICC) are not applied: the numbers of the file are the numbers of the picture.
"""

import io
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fromnoise.data.decoding.transforms import RGB, Picture, background_of
from fromnoise.data.errors import BrokenImage

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ACCEPTED = "accepted: " + ", ".join(EXTENSIONS)
_GREY_MODES = {"1", "L", "LA", "La", "I", "F"}
# PNG keeps 16 bits of colour, of which Pillow unpacks the high bytes only.
_PNG_16_BIT = {"RGB;16B": "RGB", "RGBA;16B": "RGBA", "LA;16B": "LA"}
_PNG_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
_PNG_FEW_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies their samples by


@dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels are read."""

    height: int  # pixels, after EXIF rotation
    width: int
    channels: int  # 1 for grey, 3 for colour, N for arrays
    mode: str  # Pillow's, or the type of an array
    rotated: bool = False  # EXIF asks for a rotation or mirroring
    alpha: bool = False
    deep: bool = False  # more than 8 bits a channel

    def channels_on(self, background: RGB) -> int:
        """Those of the picture: grey that lets a colour through becomes colour."""
        coloured = self.alpha and self.channels == 1 and len(set(background)) > 1
        return 3 if coloured else self.channels


def read_header(file: IO[bytes]) -> Header:
    """Size, mode and so on of an image file, without its pixels. Raises `BrokenImage`."""
    try:
        with Image.open(file) as image:
            turn = _orientation(image)
            width, height = image.size
            # Pillow turns TIFFs itself, and has done so in `size` already.
            if turn >= 5 and image.format != "TIFF":
                width, height = height, width
            deep = _png_16_bit(image)
            mode = deep or image.mode
            return Header(
                height=height,
                width=width,
                channels=1 if mode in _GREY_MODES or mode.startswith("I;16") else 3,
                mode=f"{deep} 16-bit" if deep else mode,
                rotated=turn > 1,
                alpha=image.has_transparency_data,
                deep=bool(deep) or mode[0] in "IF",
            )
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        raise BrokenImage(_reason(error)) from error


def read_picture(data: bytes, *, background: RGB) -> Picture:
    """The first frame of an image file, upright and opaque. Raises `BrokenImage`.

    Pixels are uint8 or, from deeper files, uint16 or float32; (h, w, 1) for grey and (h, w, 3)
    for colour. Transparency is composited on `background`, RGB in 0..255; transparent grey on a
    coloured background becomes colour.
    """
    if not data:
        raise BrokenImage("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if mode := _png_16_bit(image):
                return _composite(_keyed(_png_samples(data, mode), image), background)
            _scale_transparency(image)
            upright = _upright(image)
            if upright.mode[0] in "IF":
                return _deep_grey(upright, background)
            return Picture(_opaque_8_bit(upright, background))
    except (MemoryError, BrokenImage):
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        raise BrokenImage(_reason(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as `read_header` says, and so by nothing that follows the pixels of a PNG."""
    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _orientation(image: Image.Image) -> int:
    # Asking a PNG without any in front of its pixels for it would decode them all.
    if image.format == "PNG" and not _PNG_ORIENTATION & image.info.keys():
        return 1
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(1, 9) else 1


def _opaque_8_bit(image: Image.Image, background: RGB) -> np.ndarray:  # -> uint8 (h, w, 1 or 3)
    grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        grey = grey and len(set(background)) == 1
        layer = image.convert("LA" if grey else "RGBA")
        flat = Image.new("L" if grey else "RGB", image.size, background[0] if grey else background)
        flat.paste(layer, mask=layer.getchannel("A"))
    else:
        flat = image.convert("L" if grey else "RGB")
    pixels = np.asarray(flat)
    return pixels[..., None] if grey else pixels


def _deep_grey(image: Image.Image, background: RGB) -> Picture:
    """Modes I;16, I and F: 16-bit integers, or floats in 0..1."""
    pixels = np.asarray(image)[..., None]
    low, high = pixels.min(), pixels.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise BrokenImage(f"float values {low:g}..{high:g}; allowed: 0..1")
        return Picture(pixels, peak=1)
    if low < 0 or high > 65535:
        raise BrokenImage(f"32-bit values {low}..{high}; allowed: 16 bits, 0..65535")
    return _composite(_keyed(pixels.astype(np.uint16), image), background)


def _scale_transparency(image: Image.Image) -> None:
    """Pillow scales grey of 2 and 4 bits to 0..255, but not the value that is transparent."""
    if image.format == "PNG" and (tiles := getattr(image, "tile", None)):
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            image.info["transparency"] = clear * _PNG_FEW_BITS.get(tiles[0].args, 1)


def _png_16_bit(image: Image.Image) -> str | None:
    """RGB, RGBA or LA where the file is a PNG with 16 bits for each of them."""
    if image.format != "PNG" or not (tiles := getattr(image, "tile", None)):
        return None
    return _PNG_16_BIT.get(tiles[0].args)


def _png_samples(data: bytes, mode: str) -> np.ndarray:  # -> uint16 (h, w, len(mode))
    """All 16 bits, from reading the same bytes under another raw mode.

    Big-endian samples read as little-endian give the low bytes; four bytes of 16-bit LA read as
    8-bit RGBA give (L high, L low, A high, A low).
    """
    if mode == "LA":
        planes = _png_bytes(data, "RGBA").astype(np.uint16)
        return planes[..., 0::2] << 8 | planes[..., 1::2]
    high, low = _png_bytes(data, f"{mode};16B"), _png_bytes(data, f"{mode};16L")
    return high.astype(np.uint16) << 8 | low


def _png_bytes(data: bytes, raw_mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        decoder: Any = image  # the tiles of a file are no part of Image's declared type
        decoder.tile = [decoder.tile[0]._replace(args=raw_mode)]
        return np.asarray(_upright(image))


def _keyed(samples: np.ndarray, image: Image.Image) -> np.ndarray:
    """With an alpha channel more where a PNG names one value that stands for "transparent"."""
    clear = image.info.get("transparency")
    if clear is None:
        return samples
    alpha = np.where((samples == clear).all(axis=2, keepdims=True), 0, 65535)
    return np.concatenate([samples, alpha.astype(np.uint16)], axis=2)


def _composite(samples: np.ndarray, background: RGB) -> Picture:
    """16-bit (h, w, 1..4) on the background, in float; an even number of channels has alpha."""
    if samples.shape[2] in (1, 3):
        return Picture(samples, peak=65535)
    colour, alpha = samples[..., :-1], samples[..., -1:].astype(np.float32) / 65535
    channels = 1 if colour.shape[2] == 1 and len(set(background)) == 1 else 3
    behind = background_of(channels, background) * np.float32(257)
    return Picture(alpha * colour + (1 - alpha) * behind, peak=65535)


def _reason(error: Exception) -> str:
    """One line for a person; Pillow's own text for what it does not know prints an address."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return " ".join(str(error).split()) or type(error).__name__
