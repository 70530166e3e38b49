"""Decode an image file to a `Picture`, and convert that to the requested channels and size.

Rotation, transparency, palettes, CMYK, colour profiles (ICC) and up to 16 bits are handled. What is
not used, such as the frames after the first, and what Pillow warns of are the picture's `remarks`.

The order of conversion matters: first the channels, so that a grey image can be padded in colour;
then the size, in float for more than 8 bits; at last the rounding to 0..255.
"""

import io
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import PurePath
from typing import IO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from fromnoise.data.decoding.colour import GREY_MODES, has_other_colours, samples_to_srgb, to_srgb
from fromnoise.data.decoding.remarks import FRAMES, collect_warnings
from fromnoise.data.decoding.rotation import orientation_of, upright
from fromnoise.data.decoding.sixteen_bits import (
    BITS_PER_SAMPLE,
    PHOTOMETRIC,
    all_bits,
    clipped_mode,
    png_raw_mode,
)
from fromnoise.data.errors import BrokenImage, DataError, reason
from fromnoise.data.levels import BYTES, DEEPEST, NAMES, Depth, Levels
from fromnoise.progress import printable

if find_spec("pillow_heif"):
    from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

    register_heif_opener()

Fit = Literal["crop", "pad", "squash"]
RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom

# ITU-R 601-2, the weights of PIL's convert("L").
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_HEIC = (".heic", ".heif")
_EXTRA = "" if find_spec("pillow_heif") else "For .heic run pip install -e '.[heic]'."
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"),
    *(".jfif", ".jpe", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
    *(() if _EXTRA else _HEIC),
)
ACCEPTED = f"Use files of these types: {', '.join(EXTENSIONS)}. {_EXTRA}".rstrip()
# The factor by which Pillow scales their samples to 0..255, but not their transparent value.
_PNG_FEW_BITS = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image of any depth: pixels (h, w, C) with values 0..peak; `peak` is white."""

    pixels: np.ndarray
    peak: float = 255
    remarks: tuple[str, ...] = ()  # what is not used of the file, and warnings

    @property
    def is_8_bit(self) -> bool:
        return self.pixels.dtype == np.uint8 and self.peak == 255

    @property
    def depth(self) -> Depth:
        """Return the depth of the file: of composited 16 bits too, which are floats with a peak."""
        if self.pixels.dtype.itemsize == 1:
            return 8
        return "float" if self.pixels.dtype.kind == "f" and self.peak == 1 else 16


@dataclass(frozen=True)
class Header:
    """The properties of an image that are known before its pixels are decoded."""

    height: int  # pixels, after the EXIF rotation
    width: int
    channels: int  # 1 for grey, 3 for colour, N for arrays
    mode: str  # Pillow's mode, or the type of an array
    rotated: bool = False  # by EXIF, or mirrored
    alpha: bool = False
    deep: bool = False  # more than 8 bits per channel
    profile: bool = False  # an ICC profile that changes its colours

    def channels_on(self, background: RGB) -> int:
        """Return the channels of the picture: transparent grey on a colour becomes colour."""
        tinted = self.alpha and self.channels == 1 and len(set(background)) > 1
        return 3 if tinted else self.channels


def count_types(names: Iterable[str]) -> str:
    """Return how many files have which extension, most common first: `.txt ×7, .svg ×2`."""
    kinds = Counter(PurePath(name).suffix.lower() or "no extension" for name in sorted(names))
    more = [f"{len(kinds) - 8:,} more types"] if len(kinds) > 8 else []
    counts = [printable(f"{kind} ×{count:,}") for kind, count in kinds.most_common(8)]
    return ", ".join([*counts, *more])


def left_out(names: Collection[str]) -> tuple[str, ...]:
    """Return a line about the files that are no images by their names; () for none."""
    if not names:
        return ()
    hint = f" {_EXTRA}" if _EXTRA and any(name.lower().endswith(_HEIC) for name in names) else ""
    files = "1 file" if len(names) == 1 else f"{len(names):,} files"
    return (f"skipped {files} of other types: {count_types(names)}.{hint}",)


@contextmanager
def broken_if_it_fails() -> Iterator[dict[str, None]]:
    """Raise any error as `BrokenImage`: Pillow's plugins raise nearly every type.

    Yields the warnings, and adds them to the reason.
    """
    with collect_warnings() as texts:
        try:
            yield texts
        except (MemoryError, BrokenImage):
            raise
        except UnidentifiedImageError as error:  # its message contains a memory address
            why, cause = "not an image that Pillow can read", error
        except Image.DecompressionBombError as error:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
            why, cause = f"more than {most} megapixels, Pillow's limit. Scale it down first", error
        except Exception as error:
            why, cause = reason(error), error
        else:
            return
        raise BrokenImage("; ".join([why, *texts])) from cause


@broken_if_it_fails()
def read_header(file: IO[bytes]) -> Header:
    """Read size, mode and so on of an image file, without its pixels. Raises `BrokenImage`."""
    with Image.open(file) as image:
        orientation = orientation_of(image)
        width, height = image.size
        # Pillow rotates TIFFs itself when it loads them, and `size` is already rotated.
        if orientation >= 5 and image.format != "TIFF":
            width, height = height, width
        deep = clipped_mode(image)
        mode = deep or image.mode
        return Header(
            height=height,
            width=width,
            channels=1 if mode in GREY_MODES or mode.startswith("I;16") else 3,
            mode=f"{deep} 16-bit" if deep else mode,
            rotated=orientation > 1,
            alpha=image.has_transparency_data,
            deep=bool(deep) or mode[0] in "IF",
            profile=has_other_colours(image),
        )


def read_picture(data: bytes, *, background: RGB, depth: Depth = 8) -> Picture:
    """Decode the first frame of an image file, rotated upright and opaque. Raises `BrokenImage`.

    Pixels are (h, w, 1) for grey and (h, w, 3) for colour, in sRGB: uint8, or uint16 or float32 for
    files of more than 8 bits. Transparent pixels are composited on `background`, RGB in 0..255.
    Transparent grey on a coloured background becomes colour. depth: with `float`, floats may have
    any values, and no ICC profile changes them.
    """
    with broken_if_it_fails() as remarks:
        picture = _decode(data, background, depth)
    return replace(picture, remarks=tuple(remarks))


def _decode(data: bytes, background: RGB, depth: Depth) -> Picture:
    if not data:
        raise BrokenImage("the file is empty")
    with Image.open(io.BytesIO(data)) as image:
        picture = _first_frame(image, data, background, depth)
        _warn_of_the_rest(image)
    return picture


def _first_frame(image: Image.Image, data: bytes, background: RGB, depth: Depth) -> Picture:
    raw_mode, clear = png_raw_mode(image), image.info.get("transparency")
    if mode := clipped_mode(image):
        return _composite(_keyed(all_bits(data, mode), image), image, background)
    if raw_mode in _PNG_FEW_BITS and isinstance(clear, int):
        image.info["transparency"] = clear * _PNG_FEW_BITS[raw_mode]
    if image.mode == "F" and depth == "float":
        return Picture(np.asarray(upright(image))[..., None], peak=1)
    if image.mode[0] in "IF":
        return _deep_grey(image, background)
    return Picture(_opaque_8_bit(to_srgb(upright(image)), background))


def _warn_of_the_rest(image: Image.Image) -> None:
    """Warn of more frames, and of samples of a PNG that are not about v^(1/2.2), as sRGB is."""
    gamma = image.info.get("gamma")
    if gamma and not image.info.keys() & {"srgb", "icc_profile"} and abs(gamma * 2.2 - 1) > 0.05:
        warnings.warn(f"its gamma of {gamma:g} (gAMA) is not applied", stacklevel=1)
    more = True  # if the next one is damaged
    with suppress(Exception):
        more = getattr(image, "is_animated", False)
    if more:
        warnings.warn(FRAMES, stacklevel=1)


def _opaque_8_bit(image: Image.Image, background: RGB) -> np.ndarray:  # -> uint8 (h, w, 1 or 3)
    grey = image.mode in GREY_MODES
    if image.has_transparency_data:
        grey = grey and len(set(background)) == 1
        layer = image.convert("LA" if grey else "RGBA")
        flat = Image.new("L" if grey else "RGB", image.size, background[0] if grey else background)
        flat.paste(layer, mask=layer.getchannel("A"))
    else:
        flat = image.convert("L" if grey else "RGB")
    return np.atleast_3d(np.asarray(flat))


def _deep_grey(image: Image.Image, background: RGB) -> Picture:
    """Convert modes I;16, I and F: integers of up to 16 bits, or floats in 0..1."""
    pixels = np.asarray(upright(image))[..., None]
    low, high = pixels.min(), pixels.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise BrokenImage(f"its float values are {low:g}..{high:g}, not 0..1")
        return Picture(samples_to_srgb(pixels, 1, image), peak=1)
    if low < 0 or high > 65535:
        raise BrokenImage(f"its 32-bit values are {low}..{high}, not 0..65535")
    pixels, peak, tags = pixels.astype(np.uint16), DEEPEST, getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags:
        peak = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
        if tags.get(PHOTOMETRIC) == 0:  # white is 0; Pillow inverts 8 bits only
            pixels = np.uint16(peak) - pixels
    return _composite(_keyed(pixels, image), image, background, peak)


def _keyed(samples: np.ndarray, image: Image.Image) -> np.ndarray:
    """Append an alpha channel if the PNG declares one value as transparent."""
    clear = image.info.get("transparency")
    if clear is None:
        return samples
    alpha = np.where((samples == clear).all(axis=2, keepdims=True), 0, 65535)
    return np.concatenate([samples, alpha.astype(np.uint16)], axis=2)


def _composite(
    samples: np.ndarray, image: Image.Image, background: RGB, peak: float = DEEPEST
) -> Picture:
    """Composite (h, w, 1..4) on the background, in float. 2 and 4 channels have alpha."""
    if samples.shape[2] in (1, 3):
        return Picture(samples_to_srgb(samples, peak, image), peak)
    colour, alpha = samples[..., :-1], samples[..., -1:].astype(np.float32) / np.float32(peak)
    colour = samples_to_srgb(colour, peak, image)
    channels = 1 if colour.shape[2] == 1 and len(set(background)) == 1 else 3
    behind = background_of(channels, background) * np.float32(peak / 255)
    return Picture(alpha * colour + (1 - alpha) * behind, peak)


def with_white(picture: Picture, white: int | None) -> Picture:
    """Set the white of a 16-bit picture, such as 4095. With None, or another depth, change nothing.

    Raises `BrokenImage` for brighter pixels.
    """
    if white is None or picture.peak != DEEPEST:
        return picture
    if (highest := picture.pixels.max()) > white:
        raise BrokenImage(f"its largest value is {highest:g}, above data.white = {white}")
    return replace(picture, peak=white)


def check_depth(picture: Picture, levels: Levels, name: str) -> Picture:
    """Return a picture that has the depth of `levels`; with 8 bits, any picture.

    Raises `DataError` for another depth, and `BrokenImage` for floats that are NaN or outside.
    """
    if levels.depth == 8:
        return picture
    if picture.depth != levels.depth:
        raise DataError(
            f"{name} has {NAMES[picture.depth]}, but data.depth = {levels.depth}. Set "
            f"data.depth={picture.depth}, or remove it."
        )
    if levels.depth == "float":
        if np.isnan(picture.pixels).any():
            raise BrokenImage("it has NaN")
        low, high = picture.pixels.min(), picture.pixels.max()
        if low < levels.low or high > levels.high:
            raise BrokenImage(
                f"its values are {low:g}..{high:g}, outside data.range = "
                f"[{levels.low:g}, {levels.high:g}]"
            )
    return picture


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
        if not picture.is_8_bit:
            return Picture((picture.pixels.astype(np.float32) @ _LUMA)[..., None], picture.peak)
        grey = Image.fromarray(np.ascontiguousarray(picture.pixels)).convert("L")
        return Picture(np.asarray(grey)[..., None])
    allowed = {1: "1 or 3 (grey repeated)", 3: "3 or 1 (luma)"}.get(have, str(have))
    raise DataError(
        f"data.channels is {channels}, but the images have {have}. Set it to {allowed}."
    )


def fit_picture(
    picture: Picture,
    size: tuple[int, int],
    *,
    fit: Fit,
    background: RGB,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
    levels: Levels = BYTES,
) -> np.ndarray:
    """Resize a picture to `size` = (H, W) and return it with the type of `levels`, (C, H, W).

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
    pixels = _resize(picture, inner, box, resampling, levels)
    if fit == "pad":
        canvas = np.empty((*size, pixels.shape[2]), dtype=levels.dtype)
        canvas[:] = _stored(background_of(pixels.shape[2], background), 255, levels)
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


def _stored(values: np.ndarray, peak: float, levels: Levels) -> np.ndarray:
    """Return values 0..peak as stored ones, v·white/peak rounded: of 16 bits v/257 for 8 bits."""
    scaled = values.astype(np.float64) * (levels.high - levels.low) / peak
    if levels.depth == "float":
        return (scaled + levels.low).astype(np.float32)
    return np.clip(np.rint(scaled), 0, levels.high).astype(levels.dtype)  # Lanczos overshoots


def _resize(
    picture: Picture, size: tuple[int, int], box: Box, resampling: Image.Resampling, levels: Levels
) -> np.ndarray:
    """Return the pixels of a box with the type of `levels`, (H, W, C)."""
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
    if picture.is_8_bit and levels.depth == 8:
        return pixels
    if levels.depth == picture.depth == "float":  # as they are
        return np.clip(pixels, levels.low, levels.high).astype(np.float32)
    return _stored(pixels, picture.peak, levels)
