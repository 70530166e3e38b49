"""Denoising diffusion probabilistic models: train on your own images, sample, evaluate.

>>> import fromnoise
>>> run = fromnoise.train("digits", out="runs/digits", overrides={"training.steps": 500})
>>> model = fromnoise.load("runs/digits")
>>> images = model.sample(seeds=range(16), steps=50)  # uint8 (16, C, H, W)
"""

from fromnoise.data import ImageSet, check_data, open_images
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.model.model import Model, load
from fromnoise.runs import resume, train
from fromnoise.training.run import Run

__all__ = [
    "Denoiser",
    "ImageSet",
    "Model",
    "NoiseSchedule",
    "Objective",
    "Run",
    "check_data",
    "load",
    "open_images",
    "resume",
    "train",
]
__version__ = "0.1.0"
