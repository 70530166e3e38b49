"""What a run's model draws from the noise that every run of the page starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fromnoise.data.labels.names import describe_labels, one_label_each
from fromnoise.diffusion import sampling_timesteps
from fromnoise.model.model import Model, load, to_uint8

IMAGES, STRIPS, STRIP_TIMES = 16, 2, 10
STEPS = 25  # of DDIM: seconds, and the same noise gives the same picture


class Drawing(NamedTuple):
    """Images of the seeds 0, 1, …, and the way to the first of them."""

    model: Model
    steps: int
    captions: list[str]  # what each image was asked to show; "" without labels
    images: np.ndarray  # uint8 (N, C, H, W)
    times: list[int]  # of the strips, from T to 0
    x: np.ndarray  # x_t: uint8 (times, strips, C, H, W)
    x0: np.ndarray  # x̂_0 predicted from that x_t; at t = 0 the result


def draw(run: Path, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Drawing:
    """Sample the averaged weights of a run's newest whole checkpoint as its recipe does, in DDIM.

    A model with labels is asked for each in turn. progress is called with (steps done, of how
    many). Raises CheckpointError where there is no whole checkpoint.
    """
    model = load(run, weights="ema")
    spec = model.spec
    steps = min(STEPS, spec.diffusion.T)
    how = {"sampler": "ddim", "steps": steps, "eta": 0.0}
    names = spec.label_names
    asked = one_label_each(names, IMAGES) if names else None
    schedule = model.denoiser.schedule
    visited = [*sampling_timesteps(schedule, steps, model.sampling_plan(**how).timesteps), 0]
    spread = np.linspace(0, len(visited) - 1, min(STRIP_TIMES, len(visited))).round().astype(int)
    times = [visited[i] for i in spread]

    def shown(x: torch.Tensor) -> np.ndarray:
        return to_uint8(x, spec.data_range).numpy()

    seeds = range(IMAGES)
    x = {visited[0]: shown(model.start(seeds)[:STRIPS])}
    x0: dict[int, np.ndarray] = {}
    cond = None if asked is None else torch.from_numpy(asked)
    images = np.empty(0)
    for done, step in enumerate(model.denoise(seeds, cond=cond, **how), start=1):
        x0[step.t], x[step.s] = shown(step.x0[:STRIPS]), shown(step.x[:STRIPS])
        images = shown(step.x)
        progress(done, len(visited) - 1)
    x0[0] = x[0]
    captions = [""] * IMAGES if asked is None else [describe_labels(row, names) for row in asked]
    strips = (np.stack([of[t] for t in times]) for of in (x, x0))
    return Drawing(model, steps, captions, images, times, *strips)
