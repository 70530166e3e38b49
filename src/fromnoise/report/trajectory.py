"""Sample a run's model from the initial noise that all runs of the page share."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fromnoise.data.labels.names import describe_labels, one_label_each
from fromnoise.model.model import Model, load, to_uint8

IMAGES, STRIPS, COLUMNS = 16, 2, 10
STEPS = 25  # of DDIM, which is fast and deterministic


class Trajectory(NamedTuple):
    """Samples of the seeds 0, 1, …, and the denoising trajectories of the first ones."""

    model: Model
    steps: int
    captions: list[str]  # the labels of each image, "" for an unconditional model
    images: np.ndarray  # uint8 (N, C, H, W)
    stages: list[tuple[int, np.ndarray, np.ndarray]]
    """(t, x_t, x̂_0 predicted from it) from T to 0, each uint8 (STRIPS, C, H, W); x̂_0 = x_0 at 0."""


def sample_trajectory(
    run: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Trajectory:
    """Sample the EMA weights of a run's newest checkpoint with DDIM and the recipe's guidance.

    A model with labels gets each label in turn. progress is called with (steps done, total).
    Raises CheckpointError if the run has no complete checkpoint.
    """
    model = load(run, weights="ema")
    names, steps, seeds = model.spec.label_names, min(STEPS, model.spec.diffusion.T), range(IMAGES)
    labels = one_label_each(names, IMAGES) if names else None
    cond = None if labels is None else torch.from_numpy(labels)
    captions = [""] * IMAGES if labels is None else [describe_labels(row, names) for row in labels]

    def to_numpy(x: torch.Tensor) -> np.ndarray:
        return to_uint8(x, model.spec.data_range).numpy()

    images, stages = to_numpy(model.start(seeds)), []
    trajectory = model.denoise(seeds, cond=cond, sampler="ddim", steps=steps, eta=0.0)
    for done, step in enumerate(trajectory, start=1):
        stages.append((step.t, images[:STRIPS], to_numpy(step.x0[:STRIPS])))
        images = to_numpy(step.x)
        progress(done, steps)
    stages.append((0, images[:STRIPS], images[:STRIPS]))
    spread = np.linspace(0, steps, min(COLUMNS, steps + 1)).round().astype(int)
    return Trajectory(model, steps, captions, images, [stages[i] for i in spread])
