"""Sample a run's model from the initial noise that all runs of the page share."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fromnoise.data.labels.names import describe_labels, one_label_each
from fromnoise.diffusion import sampling_timesteps
from fromnoise.model.model import Model, load, to_uint8

IMAGES, STRIPS, COLUMNS = 16, 2, 10
STEPS = 25  # of DDIM, which is fast and deterministic


class Trajectory(NamedTuple):
    """Samples of the seeds 0, 1, …, and the denoising trajectories of the first ones."""

    model: Model
    steps: int
    captions: list[str]  # the labels of each image, "" for an unconditional model
    images: np.ndarray  # uint8 (N, C, H, W)
    timesteps: list[int]  # of the strips, from T to 0
    x: np.ndarray  # x_t: uint8 (timesteps, strips, C, H, W)
    x0: np.ndarray  # x̂_0 predicted from that x_t; the result at t = 0


def sample_trajectory(
    run: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Trajectory:
    """Sample the EMA weights of a run's newest checkpoint with DDIM and the recipe's guidance.

    A model with labels gets each label in turn. progress is called with (steps done, total).
    Raises CheckpointError if the run has no complete checkpoint.
    """
    model = load(run, weights="ema")
    spec = model.spec
    steps = min(STEPS, spec.diffusion.T)
    settings = {"sampler": "ddim", "steps": steps, "eta": 0.0}
    names = spec.label_names
    labels = one_label_each(names, IMAGES) if names else None
    schedule = model.denoiser.schedule
    visited = [*sampling_timesteps(schedule, steps, model.sampling_config(**settings).timesteps), 0]
    spread = np.linspace(0, len(visited) - 1, min(COLUMNS, len(visited))).round().astype(int)
    timesteps = [visited[i] for i in spread]

    def to_numpy(x: torch.Tensor) -> np.ndarray:
        return to_uint8(x, spec.data_range).numpy()

    seeds = range(IMAGES)
    x = {visited[0]: to_numpy(model.start(seeds)[:STRIPS])}
    x0: dict[int, np.ndarray] = {}
    cond = None if labels is None else torch.from_numpy(labels)
    images = np.empty(0)
    for done, step in enumerate(model.denoise(seeds, cond=cond, **settings), start=1):
        x0[step.t], x[step.s] = to_numpy(step.x0[:STRIPS]), to_numpy(step.x[:STRIPS])
        images = to_numpy(step.x)
        progress(done, len(visited) - 1)
    x0[0] = x[0]
    captions = [""] * IMAGES if labels is None else [describe_labels(row, names) for row in labels]
    strips = (np.stack([series[t] for t in timesteps]) for series in (x, x0))
    return Trajectory(model, steps, captions, images, timesteps, *strips)
