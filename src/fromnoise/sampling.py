"""From a model to a folder of pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise.config import ConfigError
from fromnoise.diffusion import Step
from fromnoise.model import Model, to_uint8
from fromnoise.pictures import grid_figure, save_gif, save_pngs, strip_figure, tile

GRID_IMAGES = 64  # in the grid, the noise grid and the animation
STRIP_IMAGES = 4  # in the strip
STRIP_TIMES = 10
MAX_FRAMES = 60


def parse_seeds(text: str) -> list[int]:
    """`0-3,8` → [0, 1, 2, 3, 8]. Raises ConfigError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"seeds {text!r} cannot be read; write 0-63, or 0,5,7-9")
        if dash and int(last) < int(first):
            raise ConfigError(f"seeds {text!r}: {part.strip()} runs backwards; write 0-63, or 0,5")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def sample_to_folder(
    model: Model,
    seeds: Sequence[int],
    folder: Path,
    *,
    batch_size: int = 64,
    grid: bool = True,
    npz: bool = False,
    gif: bool = False,
    trajectory: bool = False,
    noise: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Make one image per seed and write them, each as a PNG named by its seed.

    Returns the paths: those of the PNGs in the order of the seeds, then those of all other files.

    grid: the first 64 in one picture. npz: all as `samples_NxHxWxC.npz`, `arr_0` uint8.
    gif: x_t from noise to image. trajectory: a strip of x_t and of x̂_0 at ten times.
    noise: the x_T that the grid began with. `how` goes to `Model.denoise`: sampler, steps, ….
    progress is called with (images finished, of how many) after each batch.
    """
    plan = model.sampling_plan(**how)
    settings = {
        "sampler": plan.sampler.name,
        "steps": str(plan.steps),
        "spacing": plan.spacing,
        "weights": model.spec.weights,
        "trained steps": str(model.spec.step),
        **{key: str(value) for key, value in plan.sampler.options.items()},
    }
    title = f"{plan.steps} {plan.sampler.name.upper()} steps, {model.spec.weights} weights"
    pngs: list[Path] = []
    files: list[Path] = []
    images: list[np.ndarray] = []
    for i in range(0, len(seeds), batch_size):
        batch = seeds[i : i + batch_size]
        steps = []
        for step in model.denoise(batch, **how):
            if i == 0 and (gif or trajectory):
                steps.append(Step(step.t, step.s, step.x.cpu(), step.x0.cpu()))
        finished = to_uint8(step.x).numpy()
        metadata = [{**settings, "seed": str(seed), "software": "fromnoise"} for seed in batch]
        pngs += save_pngs(finished, folder, [f"{seed:06d}" for seed in batch], metadata)
        images.append(finished)
        progress(i + len(batch), len(seeds))
        if steps and gif:
            files.append(save_denoising(steps, folder / "denoising.gif"))
        if steps and trajectory:
            start = model.start(batch)
            files.append(save_strip(start, steps, folder / "trajectory.png", title))
    everything = np.concatenate(images)
    shown = everything[:GRID_IMAGES]
    if grid:
        files.append(grid_figure(shown, folder / "grid.png", title=title))
    if noise:
        start = to_uint8(model.start(seeds[:GRID_IMAGES])).numpy()
        title = f"x_T, the noise of seeds {seeds[0]}, …"
        files.append(grid_figure(start, folder / "noise.png", title=title))
    if npz:
        nhwc = everything.transpose(0, 2, 3, 1)
        files.append(folder / f"samples_{'x'.join(map(str, nhwc.shape))}.npz")
        np.savez(files[-1], arr_0=nhwc)
    return pngs + files


def save_denoising(steps: Sequence[Step], path: Path) -> Path:
    """An animation of x_t, at most 60 frames, the last one being the finished images."""
    chosen = torch.linspace(0, len(steps) - 1, min(MAX_FRAMES, len(steps))).round().int().tolist()
    frames = [tile(to_uint8(steps[i].x[:GRID_IMAGES]).numpy()) for i in chosen]
    return save_gif(frames, path)


def save_strip(start: torch.Tensor, steps: Sequence[Step], path: Path, title: str) -> Path:
    """x_t, and the x̂_0 that was predicted from it, side by side at ten times from T to 0.

    start: x_T, (B,C,H,W). At t = 0 both rows show the finished image.
    """
    x = [start, *(step.x for step in steps)]  # x[i] is what step i looked at
    x0 = [*(step.x0 for step in steps), steps[-1].x]
    times = [steps[0].t, *(step.s for step in steps)]
    chosen = torch.linspace(0, len(times) - 1, min(STRIP_TIMES, len(times))).round().int().tolist()
    rows = []
    for image in range(min(STRIP_IMAGES, len(start))):
        for label, series in (("$x_t$", x), (r"predicted $x_0$", x0)):
            rows.append((label, to_uint8(torch.stack([series[i][image] for i in chosen])).numpy()))
    return strip_figure(rows, [times[i] for i in chosen], path, title=title)
