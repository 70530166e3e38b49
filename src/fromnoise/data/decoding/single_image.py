"""Read single image files, and masks for inpainting, at a model's size and channels."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from fromnoise.data.decoding import decode
from fromnoise.data.errors import BrokenImage, DataError, unreadable
from fromnoise.data.levels import BYTES, Depth, Levels
from fromnoise.data.text import natural_key, open_regular
from fromnoise.progress import printable

COLOUR_TOLERANCE = 0.03  # of the peak, between two channels: JPEG artefacts of a grey image
WHITE_FROM = 128  # grey level of a mask, in 0..255
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
MAX_SHADES = 0.01  # of the visible pixels of a transparent mask: soft edges
logger = logging.getLogger("fromnoise")


def image_files(path: str | Path) -> dict[str, Path]:
    """Return {name without suffix: path} of an image file, or of the images in a folder.

    "img2" comes before "img10". Raises `DataError` for a folder without images or a repeated name.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path.absolute()} does not exist. Give an image or a folder of images.")
    if not path.is_dir():
        return {printable(path.stem): path}
    inside = [f for f in path.iterdir() if not (f.name.startswith(".") or f.is_dir())]
    images = [file for file in inside if file.suffix.lower() in decode.EXTENSIONS]
    if not images:
        raise DataError(f"{path.absolute()} has no images. {decode.ACCEPTED}")
    for line in decode.left_out({file.name for file in {*inside} - {*images}}):
        logger.info("%s: %s", path, line)
    files: dict[str, Path] = {}
    for file in sorted(images, key=lambda file: natural_key(file.name)):
        name = printable(file.stem)  # a part of the names of new files
        if name in files:
            raise DataError(
                f"{path.absolute()} has {files[name].name} and {file.name}. Their results "
                "would have the same name. Rename one of them."
            )
        files[name] = file
    return files


def read_image(
    path: str | Path,
    *,
    size: tuple[int, int],
    channels: int,
    fit: decode.Fit = "crop",
    background: decode.RGB = WHITE,
    white: int | None = None,
    levels: Levels = BYTES,
) -> np.ndarray:
    """Read one image file as (C, H, W) of the given size and levels. Options: see `open_images`.

    Raises `DataError`, which names the path: if the file cannot be read, if `channels` is neither
    1 nor 3, or if `channels` is 1 and the image is in colour.
    """
    picture = _open(Path(path).expanduser(), background, white, depth=levels.depth)
    if picture.depth == levels.depth == "float":
        with unreadable(f"{path} cannot be used", BrokenImage):
            decode.check_depth(picture, levels, str(path))
    if channels not in (1, 3):
        raise DataError(
            f"{path} has {picture.pixels.shape[2]} channels, but this model's images have "
            f"{channels}. Use a model of 1 (grey) or 3 (colour) channels."
        )
    if channels == 1:
        spread = np.ptp(picture.pixels.astype(np.int64), axis=2)
        if (spread > COLOUR_TOLERANCE * picture.peak).any():
            raise DataError(
                f"{path} is in colour (3 channels), but this model's images are grey (1 channel). "
                "Convert it to grey first."
            )
    picture = decode.to_channels(picture, channels)
    return decode.fit_picture(picture, size, fit=fit, background=background, levels=levels)


def read_mask(
    path: str | Path, *, image: str | Path, size: tuple[int, int], fit: decode.Fit = "crop"
) -> np.ndarray:
    """Read a mask for inpainting: bool (H, W), True (to be regenerated) from grey level 128 on.

    The mask must have the size of the file `image`. It is resized like the image, but by nearest
    neighbour. Colour is converted to luma; transparent pixels and padding are black. Raises
    `DataError` if the sizes differ, if no pixel is white, or for a picture with a transparent hole.
    """
    mask = decode.to_channels(_open(Path(path).expanduser(), BLACK), 1)
    _refuse_hole(Path(path).expanduser(), mask)
    (h, w), header = mask.pixels.shape[:2], _header(Path(image).expanduser())
    height, width = header.height, header.width
    if (h, w) != (height, width):
        raise DataError(
            f"the mask {path} is {h}x{w} (HxW), but the image {image} is {height}x{width}. Make "
            "the mask the size of the image file."
        )
    white = (mask.pixels.astype(np.float64) * 255 / mask.peak).round() >= WHITE_FROM
    if not white.any():
        raise DataError(
            f"the mask {path} has no white pixel, so nothing would change. Paint the area to "
            f"regenerate white (grey level {WHITE_FROM} to 255)."
        )
    white, nearest = decode.Picture(white.astype(np.uint8) * 255), Image.Resampling.NEAREST
    fitted = decode.fit_picture(white, size, fit=fit, background=BLACK, resampling=nearest)
    if not fitted.any():
        raise DataError(
            f"the mask {path} has no white pixel left at the model's size {size[0]}x{size[1]} "
            f"({fit}). Paint a larger area white."
        )
    return fitted[0] > 0


def _refuse_hole(path: Path, on_black: decode.Picture) -> None:
    """Raise `DataError` for a transparent mask whose other pixels are not black and white.

    It may be a picture of which the area to regenerate was erased.
    """
    if not _header(path).alpha:
        return
    on_white = decode.to_channels(_open(path, WHITE, said=True), 1)
    black = on_black.pixels / on_black.peak
    alpha = 1 - (on_white.pixels / on_white.peak - black)
    visible = alpha > 0.1
    grey = black[visible] / alpha[visible]
    shades = np.mean((grey > 0.1) & (grey < 0.9)) if visible.any() else 0
    if alpha.min() < 0.9 and shades > MAX_SHADES:
        raise DataError(
            f"the mask {path} has transparent pixels, and {shades:.0%} of the others are neither "
            "black nor white, so its area is unclear. Paint the area to regenerate white, and all "
            "else black."
        )


def _header(path: Path) -> decode.Header:
    with _opened(path) as file:
        return decode.read_header(file)


def _open(
    path: Path,
    background: decode.RGB,
    white: int | None = None,
    *,
    depth: Depth = 8,
    said: bool = False,
) -> decode.Picture:
    """Read a picture, and log its remarks unless they were logged before."""
    with _opened(path) as file:
        picture = decode.read_picture(file.read(), background=background, depth=depth)
        picture = decode.with_white(picture, white)
    for remark in () if said else picture.remarks:
        logger.warning("%s: %s", path, remark)
    return picture


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise DataError(f"{path.absolute()} is not a file. Give the path of an image file.")
    with (
        unreadable(f"{path.absolute()} cannot be read as an image", BrokenImage, OSError),
        open_regular(path) as file,
    ):
        yield file
