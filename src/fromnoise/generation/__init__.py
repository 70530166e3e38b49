"""Generate folders of pictures: samples, inpainting, variations, interpolations."""

from fromnoise.generation.conditioning import Conditioning, read_conditioning
from fromnoise.generation.inpainting import inpaint_to_folder
from fromnoise.generation.interpolations import interpolate_seeds_to_folder, interpolate_to_folder
from fromnoise.generation.samples import Outputs, sample_to_folder
from fromnoise.generation.variations import vary_to_folder

__all__ = [
    "Conditioning",
    "Outputs",
    "inpaint_to_folder",
    "interpolate_seeds_to_folder",
    "interpolate_to_folder",
    "read_conditioning",
    "sample_to_folder",
    "vary_to_folder",
]
