"""Single image files and their masks, as a model wants them."""

from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.data.decoding.decode import ACCEPTED, EXTENSIONS, read_picture
from fromnoise.data.decoding.transforms import RGB, Fit, Picture, fit_picture, to_channels
from fromnoise.data.errors import BrokenImage, DataError
from fromnoise.data.text import natural_key

COLOUR = 0.03  # of the peak, between two channels
WHITE_FROM = 128  # of a mask's grey levels
BLACK = (0, 0, 0)


def image_files(path: str | Path) -> dict[str, Path]:
    """The image file, or those that lie in a folder, "img2" before "img10"; by name, no suffix.

    Raises DataError for a folder without images, or with two of one name.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"there is no image file and no folder {path.absolute()}")
    if path.is_file():
        return {path.stem: path}
    found = [file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS]
    visible = [file for file in found if file.is_file() and not file.name.startswith(".")]
    if not visible:
        raise DataError(f"{path.absolute()} has no images; {ACCEPTED}")
    files: dict[str, Path] = {}
    for file in sorted(visible, key=lambda file: natural_key(file.name)):
        if file.stem in files:
            raise DataError(
                f"{path.absolute()} has {files[file.stem].name} and {file.name}, whose results "
                "would have one name; rename one"
            )
        files[file.stem] = file
    return files


def read_image(
    path: str | Path,
    *,
    size: tuple[int, int],
    channels: int,
    fit: Fit = "crop",
    background: RGB = (255, 255, 255),
) -> np.ndarray:
    """One image file as uint8 (C, H, W) of that size.

    Raises `DataError` with the path: for a file that cannot be read, for a model of other channels
    than files have, and for a colour image where the model makes grey ones.
    """
    picture = _open(Path(path).expanduser(), background)
    if channels not in (1, 3):
        raise DataError(
            f"{path} has {picture.pixels.shape[2]} channels, as image files do, but this model's "
            f"images have {channels}; allowed: a model of 1 (grey) or 3 (colour)"
        )
    if channels == 1 and _in_colour(picture):
        raise DataError(
            f"{path} is in colour (3 channels), but this model's images are grey (1 channel); make "
            "it grey first, so that nothing is lost unsaid"
        )
    return fit_picture(to_channels(picture, channels), size, fit=fit, background=background)


def read_mask(
    path: str | Path, *, image: str | Path, size: tuple[int, int], fit: Fit = "crop"
) -> np.ndarray:
    """Where an image shall be made anew: bool (H, W), True from grey level 128 on (white).

    The mask has the size of the file `image`, and comes to `size` in the same way, but by the
    nearest pixel. Colour counts by its luma, and what is transparent is black. Padding is black.
    Raises DataError for another size, and where no pixel is white.
    """
    mask = to_channels(_open(Path(path).expanduser(), BLACK), 1)
    (h, w), (height, width) = (
        picture.pixels.shape[:2] for picture in (mask, _open(Path(image).expanduser(), BLACK))
    )
    if (h, w) != (height, width):
        raise DataError(
            f"the mask {path} is {h}x{w} (HxW), but the image {image} is {height}x{width}; a mask "
            "needs the size of its image file"
        )
    white = (mask.pixels.astype(np.float64) * 255 / mask.peak).round() >= WHITE_FROM
    if not white.any():
        raise DataError(
            f"the mask {path} has no white pixel, so there is nothing to make: white (grey level "
            f"{WHITE_FROM} to 255) is made anew, black stays"
        )
    fitted = fit_picture(
        Picture(white.astype(np.uint8) * 255),
        size,
        fit=fit,
        background=BLACK,
        resampling=Image.Resampling.NEAREST,
    )
    if not fitted.any():
        raise DataError(
            f"the mask {path} has no white pixel left at the model's size {size[0]}x{size[1]} "
            f"({fit}); paint a larger part of it white"
        )
    return fitted[0] > 0


def _in_colour(picture: Picture) -> bool:
    """Whether its channels differ by more than what a JPEG of a grey image may leave."""
    pixels = picture.pixels.astype(np.int64)
    apart = pixels.max(axis=2) - pixels.min(axis=2)
    return bool((apart > COLOUR * picture.peak).any())


def _open(path: Path, background: RGB) -> Picture:
    if not path.is_file():
        raise DataError(f"there is no image file {path.absolute()}")
    try:
        return read_picture(path.read_bytes(), background=background)
    except BrokenImage as error:
        raise DataError(f"{path.absolute()} cannot be read as an image: {error}") from error
