"""From given images to a folder of new ones."""

from fromnoise.generation.inpainting import inpaint_to_folder
from fromnoise.generation.interpolations import interpolate_seeds_to_folder, interpolate_to_folder
from fromnoise.generation.variations import vary_to_folder

__all__ = [
    "inpaint_to_folder",
    "interpolate_seeds_to_folder",
    "interpolate_to_folder",
    "vary_to_folder",
]
