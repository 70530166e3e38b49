"""Convert the colours of an image to sRGB by its ICC profile.

A profile that changes no level by more than `SAME` is sRGB: the pixels stay as they are. One that
cannot be used is a warning, and the pixels stay too.
"""

import io
import warnings
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # levels of 255
GREY_MODES = {"1", "L", "LA", "La", "I", "F"}
# no cache of the last pixel, so that threads can share a transform; no coarse table for dark grey
_EXACT = ImageCms.Flags.NOCACHE | ImageCms.Flags.NOOPTIMIZE


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an 8-bit image in sRGB, as L, LA, RGB or RGBA; itself if that changes nothing."""
    convert = _conversion(image)
    if convert is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if isinstance(convert, np.ndarray):
        flat = image.convert("L").point(convert.round().astype(int).tolist())
    else:
        flat = ImageCms.applyTransform(image.convert(_transformed(image)), convert)
        assert flat is not None  # it is not converted in place
    if alpha is not None:
        flat.putalpha(alpha)
    return flat


def samples_to_srgb(samples: np.ndarray, peak: float, image: Image.Image) -> np.ndarray:
    """Return samples (h, w, 1 or 3) of more than 8 bits in sRGB. Colours are rounded to 8 bits."""
    convert = _conversion(image)
    if convert is None:
        return samples
    levels = samples.astype(np.float32) * np.float32(255 / peak)
    if isinstance(convert, np.ndarray):
        levels = np.interp(levels, np.arange(256), convert).astype(np.float32)
    else:
        colours = Image.fromarray(levels.round().astype(np.uint8))
        levels = np.asarray(ImageCms.applyTransform(colours, convert), np.float32)
    return levels * np.float32(peak / 255)


def has_other_colours(image: Image.Image) -> bool:
    """Return whether the image has a profile that changes its colours."""
    return _conversion(image) is not None


def _conversion(image: Image.Image) -> np.ndarray | ImageCms.ImageCmsTransform | None:
    """Return the curve of a grey image, the transform of one in colour, or None."""
    profile = image.info.get("icc_profile")
    if not profile and image.mode != "LAB":
        return None
    try:
        if _is_grey(image):
            return _curve(profile)
        return _transform(profile, _transformed(image))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        warnings.warn(f"its ICC profile is not applied: {error}", stacklevel=1)
        return None


def _is_grey(image: Image.Image) -> bool:
    return image.mode in GREY_MODES or image.mode.startswith("I;16")


def _transformed(image: Image.Image) -> str:
    return image.mode if image.mode in ("CMYK", "LAB") else "RGB"


@lru_cache(maxsize=16)
def _curve(profile: bytes) -> np.ndarray | None:
    """Return the levels (256,) that replace 0..255 of grey."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space: str = getattr(opened.profile, "xcolor_space", "")
    mode = "RGB" if space.strip() == "RGB" else "L"
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)
    levels = np.asarray(ImageCms.applyTransform(grey, _to_srgb(opened, mode)), np.float64)[0, :, 1]
    return None if np.abs(levels - np.arange(256)).max() <= SAME else levels


@lru_cache(maxsize=16)
def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    if not profile:
        return _to_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), mode)
    transform = _to_srgb(ImageCms.ImageCmsProfile(io.BytesIO(profile)), mode)
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        found = ImageCms.applyTransform(Image.fromarray(colours), transform)
        if np.abs(np.asarray(found, np.int16) - colours).max() <= SAME:
            return None
    return transform


def _to_srgb(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.createProfile("sRGB")
    flags = _EXACT if mode == "L" else ImageCms.Flags.NOCACHE
    return ImageCms.buildTransform(profile, srgb, mode, "RGB", flags=flags)
