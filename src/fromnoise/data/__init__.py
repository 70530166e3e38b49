"""Load images and labels: sources, decoding, the cache, and `check_data`."""

from fromnoise.data.check import DataReport, check_data
from fromnoise.data.dataset import ImageSet, open_images
from fromnoise.data.decoding.single_image import image_files, read_image, read_mask
from fromnoise.data.errors import DataError, SeveralSizes
from fromnoise.data.labels import read_conditions
from fromnoise.data.shapes.dataset import write_shapes
from fromnoise.data.sources import SOURCES, detect_source
from fromnoise.data.sources.idx import DOWNLOADABLE
