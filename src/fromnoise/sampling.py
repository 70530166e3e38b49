"""From a model to a folder of pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise.checkpoints import STATE
from fromnoise.config import Component, ConfigError, Sampling, checked
from fromnoise.diffusion import Step
from fromnoise.diffusion.samplers import sampling_times
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


def parse_times(text: str) -> list[int]:
    """`999,700,0` → [999, 700, 0]. Raises ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"times {text!r} cannot be read; write 999,700,400,100,0")
    return [int(part) for part in parts]


def default_folder(model: Model, path: Path, **how: Any) -> Path:
    """Where samples go when nobody says: samples/NAME in the run, or beside a single file.

    path: what the model was loaded from. NAME tells the step, the weights and the sampler with its
    options, so that other ways of sampling go to other folders.
    """
    plan = model.sampling_plan(**how)
    usual = checked(Component(name=plan.sampler.name), "sampling.sampler").options
    parts = [f"{model.spec.step:06d}", model.spec.weights, plan.sampler.name, str(plan.steps)]
    parts += [f"{key}{value}" for key, value in plan.sampler.options.items() if value != usual[key]]
    parts += [plan.spacing] if plan.spacing != Sampling().spacing else []
    folder = path if path.is_dir() else path.parent
    if (folder / STATE).is_file():  # a checkpoint, which will be pruned: up to its run
        folder = folder.parent.parent
    return folder / "samples" / "-".join(parts)


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
    times: Sequence[int] | None = None,
    noise: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Make one image per seed and write them, each as a PNG named by its seed.

    Returns the paths: those of the PNGs in the order of the seeds, then those of all other files.

    grid: the first 64 in one picture. npz: all as `samples_NxHxWxC.npz`, `arr_0` uint8.
    gif: x_t from noise to image. trajectory: a strip of x_t, and of the x̂_0 predicted from it, at
    `times` (the nearest that the sampler visits), or at ten. noise: the x_T of the grid.
    progress is called with (images finished, of how many) after each batch.
    how: as in `Model.denoise`.
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
    weights = {"ema": "EMA", "raw": "raw"}[model.spec.weights]
    title = f"{plan.steps} {plan.sampler.name.upper()} steps, {weights} weights"
    pngs: list[Path] = []
    files: list[Path] = []
    images: list[np.ndarray] = []
    for i in range(0, len(seeds), batch_size):
        batch = seeds[i : i + batch_size]
        film = Film(model, batch, plan, times) if i == 0 and (gif or trajectory) else None
        for step in model.denoise(batch, **how):
            if film is not None:
                film.take(step)
        finished = to_uint8(step.x).numpy()
        metadata = [{**settings, "seed": str(seed), "software": "fromnoise"} for seed in batch]
        pngs += save_pngs(finished, folder, [f"{seed:06d}" for seed in batch], metadata)
        images.append(finished)
        progress(i + len(batch), len(seeds))
        if film is not None and gif:
            files.append(save_gif(film.frames, folder / "denoising.gif"))
        if film is not None and trajectory:
            files.append(film.save_strip(folder / "trajectory.png", title))
    everything = np.concatenate(images)
    if grid:
        files.append(grid_figure(everything[:GRID_IMAGES], folder / "grid.png", title=title))
    if noise:
        start = to_uint8(model.start(seeds[:GRID_IMAGES])).numpy()
        files.append(grid_figure(start, folder / "noise.png", title="$x_T$, the starting noise"))
    if npz:
        nhwc = everything.transpose(0, 2, 3, 1)
        files.append(folder / f"samples_{'x'.join(map(str, nhwc.shape))}.npz")
        np.savez(files[-1], arr_0=nhwc)
    return pngs + files


class Film:
    """What is kept of the denoising of one batch: a few frames and a few columns of a strip."""

    def __init__(
        self, model: Model, seeds: Sequence[int], plan: Sampling, times: Sequence[int] | None
    ) -> None:
        """times: those of the strip, in {0..T}; the nearest kept ones are shown, T first."""
        T = model.denoiser.schedule.T
        visited = [*sampling_times(T, plan.steps, plan.spacing), 0]
        if times is None:
            times = [visited[i] for i in _spread(len(visited), STRIP_TIMES)]
        outside = [t for t in times if not 0 <= t <= T]
        if outside:
            raise ConfigError(f"times must lie in 0..{T}, not {outside[0]}")
        nearest = {min(visited, key=lambda kept: abs(kept - t)) for t in times}
        self.times = sorted(nearest, reverse=True)
        self._frame_times = {visited[i] for i in _spread(len(visited), MAX_FRAMES)}
        self.frames: list[np.ndarray] = []
        self._x: dict[int, np.ndarray] = {}  # t → x_t of the first images
        self._x0: dict[int, np.ndarray] = {}  # t → x̂_0 predicted from that x_t
        self._see(visited[0], model.start(seeds))

    def _see(self, t: int, x: torch.Tensor) -> None:
        if t in self._frame_times:
            self.frames.append(tile(to_uint8(x[:GRID_IMAGES]).numpy()))
        if t in self.times:
            self._x[t] = to_uint8(x[:STRIP_IMAGES]).numpy()

    def take(self, step: Step) -> None:
        """Keep what is wanted of this step."""
        if step.t in self.times:
            self._x0[step.t] = to_uint8(step.x0[:STRIP_IMAGES]).numpy()
        self._see(step.s, step.x)

    def save_strip(self, path: Path, title: str) -> Path:
        """Two rows for each image. At t = 0 there is nothing to predict: both show the result."""
        x0 = self._x0 | {0: self._x[0]} if 0 in self._x else self._x0
        rows = []
        for i in range(len(next(iter(self._x.values())))):
            for label, series in (("$x_t$", self._x), ("predicted $x_0$", x0)):
                rows.append((label, np.stack([series[t][i] for t in self.times])))
        return strip_figure(rows, self.times, path, title=title)


def _spread(count: int, at_most: int) -> list[int]:
    """Indices from 0 to count−1, both among them, evenly spread."""
    return torch.linspace(0, count - 1, min(at_most, count)).round().int().tolist()
