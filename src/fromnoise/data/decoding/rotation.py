"""Rotate an image upright, as its EXIF says."""

from PIL import ExifTags, Image

_PNG_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
_TURNS = {  # from EXIF's orientation to upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Rotate as `read_header` reports, so ignore metadata after the pixels of a PNG.

    `ImageOps.exif_transpose` also writes the EXIF data back, and fails if it is damaged.
    """
    turn = _TURNS.get(orientation_of(image))
    return image if turn is None or image.format == "TIFF" else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of EXIF, 1..8; 1 is upright."""
    # `getexif` would decode all pixels of a PNG that has no EXIF in front of them.
    if image.format == "PNG" and not _PNG_ORIENTATION & image.info.keys():
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1
