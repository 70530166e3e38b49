"""Train a recipe: the loop, its state, and the files in the run folder."""

from fromnoise.training.loop import Diverged
from fromnoise.training.post_hoc_ema import Reconstruction, reconstruct
from fromnoise.training.previews import progress_figure
from fromnoise.training.run import Run

__all__ = ["Diverged", "Reconstruction", "Run", "progress_figure", "reconstruct"]
