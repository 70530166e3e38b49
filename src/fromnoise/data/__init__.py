"""Where images and labels come from: sources, decoding, the cache, and a check of them."""

from fromnoise.data.check import Report, check_data
from fromnoise.data.conditions import read_conditions
from fromnoise.data.downloads import DOWNLOADED
from fromnoise.data.errors import DataError, SeveralSizes
from fromnoise.data.imageset import ImageSet
from fromnoise.data.opening import open_images
from fromnoise.data.shapes import write_shapes
from fromnoise.data.single import image_files, read_image, read_mask
from fromnoise.data.sources import SOURCES, detect_source

__all__ = [
    "DOWNLOADED",
    "SOURCES",
    "DataError",
    "ImageSet",
    "Report",
    "SeveralSizes",
    "check_data",
    "detect_source",
    "image_files",
    "open_images",
    "read_conditions",
    "read_image",
    "read_mask",
    "write_shapes",
]
