"""From a recipe to a trained model: the loop, its state, and what it leaves in the run folder."""

from fromnoise.doctor.findings import Finding
from fromnoise.training.loop import Diverged
from fromnoise.training.post_hoc_ema import Reconstruction, reconstruct
from fromnoise.training.previews import progress_figure
from fromnoise.training.run import Run, diagnose, resume, train

__all__ = [
    "Diverged",
    "Finding",
    "Reconstruction",
    "Run",
    "diagnose",
    "progress_figure",
    "reconstruct",
    "resume",
    "train",
]
