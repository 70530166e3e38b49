"""Generate folders of images: samples, inpainting, variations, interpolations."""
