"""Sample to a folder: a PNG per seed, a grid, and what else is requested."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.generation.conditioning import Conditioning
from fromnoise.generation.inputs import last_x
from fromnoise.generation.naming import describe
from fromnoise.model.model import Model, to_uint8
from fromnoise.model.sampling import visited_timesteps
from fromnoise.pictures import (
    grid_figure,
    grids_side_by_side,
    save_gif,
    save_pngs,
    strip_figure,
    tile,
)
from fromnoise.progress import progress_bar
from fromnoise.rng import require_unique_seeds

GRID_IMAGES = 64  # in a grid and in the animation
STRIP_TIMES = 10
MAX_FRAMES = 60


@dataclass(frozen=True)
class Outputs:
    """The files to write beside the PNGs."""

    grid: bool = True  # of the first 64 images
    columns: int | None = None  # of the grid; None: about square
    npz: bool = False  # all images: `arr_0` uint8 (N,H,W,C), with labels `arr_1` int8 (N,K)
    gif: bool = False  # x_t from noise to image
    trajectory: bool = False  # a strip of x_t and of the predicted x_0
    times: Sequence[int] | None = None  # of the strip, the nearest visited ones; None: ten
    strips: int = 4  # images in the strip
    each_step: bool = False  # a grid of x_t and of the predicted x_0 at every t
    noise: bool = False  # x_T of the grid beside its images


def sample_to_folder(
    model: Model,
    seeds: Sequence[int],
    folder: Path,
    config: SamplingConfig,
    conditioning: Conditioning | None = None,
    outputs: Outputs | None = None,
    *,
    batch_size: int = 64,
) -> list[Path]:
    """Sample one image per seed, and write each as a PNG named by its seed.

    Pictures of the trajectory show the first batch. Returns the PNGs in the order of the seeds,
    then all other files. Raises ValueError for a seed that is repeated with the same labels, and
    for times that are out of range.
    """
    conditioning, outputs = conditioning or Conditioning(), outputs or Outputs()
    captions = conditioning.captions(model.spec.label_names, len(seeds))
    title, heading, names, metadata = describe(model.spec, config, seeds, conditioning, captions)
    require_unique_seeds(seeds, captions)
    trajectory = Trajectory(model, config, outputs, folder, title)
    pngs: list[Path] = []
    images: list[np.ndarray] = []
    with progress_bar("images") as progress:
        for i in range(0, len(seeds), batch_size):
            rows = slice(i, i + batch_size)
            steps = model.denoise(seeds[rows], config, **conditioning.rows(rows))
            if i == 0:
                x = model.start(seeds[rows])
                for step in steps:
                    trajectory.record(step.t, x, step.x0)
                    x = step.x
                trajectory.record(0, x, x)
            else:
                x = last_x(steps)
            images.append(to_uint8(x, model.spec.data_range).numpy())
            pngs += save_pngs(images[-1], folder, names[rows], metadata[rows])
            progress(i + len(images[-1]), len(seeds))
    every = np.concatenate(images)
    first, files = every[:GRID_IMAGES], trajectory.save()
    if outputs.grid:
        shown = captions[:GRID_IMAGES] if len(set(captions)) > 1 else None
        grid = grid_figure(
            first,
            folder / "grid.png",
            title=heading,
            captions=None if shown is None else [text.replace(", ", "\n") for text in shown],
            columns=outputs.columns,
        )
        files.append(grid)
    if outputs.noise:
        x_T = to_uint8(model.start(seeds[:GRID_IMAGES]), model.spec.data_range).numpy()
        panels = [("$x_T$, the starting noise", x_T), ("$x_0$, the image made from it", first)]
        path = folder / "noise.png"
        files.append(grids_side_by_side(panels, path, title=title, columns=outputs.columns))
    if outputs.npz:
        arrays = {"arr_0": every.transpose(0, 2, 3, 1)}
        arrays |= {} if conditioning.cond is None else {"arr_1": conditioning.cond}
        files.append(folder / f"samples_{'x'.join(map(str, arrays['arr_0'].shape))}.npz")
        np.savez(files[-1], allow_pickle=False, **arrays)
    return pngs + files


class Trajectory:
    """Pictures of one batch on its way from noise to images: `record` every t, then `save`."""

    def __init__(
        self, model: Model, config: SamplingConfig, outputs: Outputs, folder: Path, title: str
    ) -> None:
        """Select the timesteps to show. Raises ConfigError for times out of range."""
        T = model.denoiser.schedule.T
        visited = [*visited_timesteps(config, model.denoiser.schedule), 0]
        times = outputs.times or [visited[i] for i in _evenly_spaced(len(visited), STRIP_TIMES)]
        if outside := [t for t in times if not 0 <= t <= T]:
            raise ConfigError(f"times = {outside[0]} is out of range. Use 0 to {T}.")
        nearest = {min(visited, key=lambda kept: abs(kept - t)) for t in times}
        self.times = sorted(nearest, reverse=True) if outputs.trajectory else []
        frames = _evenly_spaced(len(visited), MAX_FRAMES) if outputs.gif else []
        self.frame_times = {visited[i] for i in frames}
        self.data_range, self.outputs = model.spec.data_range, outputs
        self.folder, self.title = folder, title
        self.frames: list[np.ndarray] = []  # of the animation
        self.strip: list[np.ndarray] = []  # x_t and x̂_0 of a few images, (2, B, C, H, W), per time
        self.grids: list[Path] = []

    def record(self, t: int, x: Tensor, x0: Tensor) -> None:
        """Keep x_t and the x̂_0 that is predicted from it, where they are shown."""
        if not (self.outputs.each_step or t in self.frame_times or t in self.times):
            return
        x_t, predicted = (to_uint8(each, self.data_range).numpy() for each in (x, x0))
        if t in self.frame_times:
            self.frames.append(tile(x_t[:GRID_IMAGES]))
        if t in self.times:
            self.strip.append(np.stack([x_t, predicted])[:, : self.outputs.strips])
        if self.outputs.each_step:
            self._save_grid("x_t", "$x_t$", t, x_t)
            if t > 0:
                self._save_grid("predicted_x0", "$x_0$ as predicted", t, predicted)

    def save(self) -> list[Path]:
        """Write the animation and the strip; return them and the grids of each step."""
        files = list(self.grids)
        if self.outputs.gif:
            files.append(save_gif(self.frames, self.folder / "denoising.gif"))
        if self.outputs.trajectory:
            rows = [
                (label, np.stack([pixels[j, i] for pixels in self.strip]))
                for i in range(self.strip[0].shape[1])
                for j, label in enumerate(("$x_t$", "predicted $x_0$"))
            ]
            path = self.folder / "trajectory.png"
            files.append(strip_figure(rows, self.times, path, title=self.title))
        return files

    def _save_grid(self, name: str, symbol: str, t: int, images: np.ndarray) -> None:
        path = self.folder / "steps" / f"{name}-{t:04d}.png"
        title = f"{symbol} at $t$ = {t}, {self.title}"
        self.grids.append(grid_figure(images[:GRID_IMAGES], path, title=title))


def _evenly_spaced(count: int, at_most: int) -> list[int]:
    """Return indices from 0 to count−1, both included, evenly spaced."""
    return torch.linspace(0, count - 1, min(at_most, count)).round().int().tolist()
