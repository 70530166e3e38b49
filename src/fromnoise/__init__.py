"""Denoising diffusion probabilistic models: train on your own images, sample, evaluate.

>>> import fromnoise
>>> run = fromnoise.train("digits", out="runs/digits", overrides={"training.steps": 500})
>>> model = fromnoise.load("runs/digits")
>>> images = model.sample(seeds=range(16), steps=50)  # uint8 (16, C, H, W)
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "data": ("ImageSet", "check_data", "open_images"),
    "diffusion": ("Denoiser", "NoiseSchedule", "Objective"),
    "model.model": ("Model", "load"),
    "runs": ("resume", "train"),
    "training.run": ("Run",),
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a module, at its first use (PEP 562): torch takes seconds."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"fromnoise.{module}"), name)
    if "." in name or find_spec(f"fromnoise.{name}") is None:
        raise AttributeError(f"module 'fromnoise' has no attribute {name!r}")
    return import_module(f"fromnoise.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
