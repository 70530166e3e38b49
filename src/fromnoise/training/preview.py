"""A picture every so often: what the weights would make of the same noise."""

from pathlib import Path

from fromnoise.model import Model, ModelSpec
from fromnoise.pictures import grids_side_by_side
from fromnoise.training.state import TrainingState

SEEDS = range(16)
STEPS = 25  # of DDIM: the same noise gives the same picture, whatever the recipe samples with


def save_preview(state: TrainingState, spec: ModelSpec, folder: Path) -> Path:
    """Write folder/000500.png: sixteen images from the averaged weights beside the raw ones."""
    steps = min(STEPS, spec.diffusion.T)
    panels = []
    for title, network in (("EMA", state.ema.module), ("raw", state.denoiser.network)):
        network.eval()
        denoiser = type(state.denoiser)(network, state.denoiser.schedule, spec.diffusion.prediction)
        images = Model(denoiser, spec).sample(SEEDS, sampler="ddim", steps=steps, eta=0.0)
        panels.append((f"{title} weights", images.numpy()))
    state.denoiser.network.train()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{state.step:06d}.png"
    grids_side_by_side(panels, path, title=f"step {state.step:,}, {steps} DDIM steps, same noise")
    return path
