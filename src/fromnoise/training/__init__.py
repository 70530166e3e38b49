"""From a recipe to a trained model: the loop, its state, and what it leaves in the run folder."""

from fromnoise.training.findings import Finding
from fromnoise.training.loop import Diverged
from fromnoise.training.post_hoc import Reconstruction, reconstruct
from fromnoise.training.preview import progress_figure
from fromnoise.training.run import Run, examine, resume, train

__all__ = [
    "Diverged",
    "Finding",
    "Reconstruction",
    "Run",
    "examine",
    "progress_figure",
    "reconstruct",
    "resume",
    "train",
]
