"""Read single image files, and masks for inpainting, at a model's size and channels."""

from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.data.decoding import decode
from fromnoise.data.errors import BrokenImage, DataError, unreadable
from fromnoise.data.text import natural_key
from fromnoise.progress import printable

COLOUR_TOLERANCE = 0.03  # of the peak, between two channels: JPEG artefacts of a grey image
WHITE_FROM = 128  # grey level of a mask, in 0..255
BLACK = (0, 0, 0)


def image_files(path: str | Path) -> dict[str, Path]:
    """Return {name without suffix: path} of an image file, or of the images in a folder.

    "img2" comes before "img10". Raises `DataError` for a folder without images or a repeated name.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path.absolute()} does not exist. Give an image or a folder of images.")
    if path.is_file():
        return {printable(path.stem): path}
    images = [file for file in path.iterdir() if file.suffix.lower() in decode.EXTENSIONS]
    visible = [file for file in images if file.is_file() and not file.name.startswith(".")]
    if not visible:
        raise DataError(f"{path.absolute()} has no images. {decode.ACCEPTED}")
    files: dict[str, Path] = {}
    for file in sorted(visible, key=lambda file: natural_key(file.name)):
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
    background: decode.RGB = (255, 255, 255),
) -> np.ndarray:
    """Read one image file as uint8 (C, H, W) of the given size.

    Raises `DataError`, which names the path: if the file cannot be read, if `channels` is neither
    1 nor 3, or if `channels` is 1 and the image is in colour.
    """
    picture = _open(Path(path).expanduser(), background)
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
    return decode.fit_picture(picture, size, fit=fit, background=background)


def read_mask(
    path: str | Path, *, image: str | Path, size: tuple[int, int], fit: decode.Fit = "crop"
) -> np.ndarray:
    """Read a mask for inpainting: bool (H, W), True (to be regenerated) from grey level 128 on.

    The mask must have the size of the file `image`. It is resized like the image, but by nearest
    neighbour. Colour is converted to luma; transparent pixels and padding are black. Raises
    `DataError` if the sizes differ, or if no pixel is white.
    """
    mask = decode.to_channels(_open(Path(path).expanduser(), BLACK), 1)
    (h, w), (height, width) = (
        picture.pixels.shape[:2] for picture in (mask, _open(Path(image).expanduser(), BLACK))
    )
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


def _open(path: Path, background: decode.RGB) -> decode.Picture:
    if not path.is_file():
        raise DataError(f"{path.absolute()} is not a file. Give the path of an image file.")
    with unreadable(f"{path.absolute()} cannot be read as an image", BrokenImage):
        return decode.read_picture(path.read_bytes(), background=background)
