"""Generate folders of pictures: samples, inpainting, variations, interpolations."""
