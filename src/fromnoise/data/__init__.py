"""Where images and labels come from: sources, decoding, the cache, and a check of them."""

from .check import Report, check_data
from .errors import DataError
from .imageset import ImageSet
from .opening import open_images
from .sources import SOURCES, detect_source

__all__ = [
    "SOURCES",
    "DataError",
    "ImageSet",
    "Report",
    "check_data",
    "detect_source",
    "open_images",
]
