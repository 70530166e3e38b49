"""Sample to a folder: a PNG per seed, a grid, and what else is requested."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from fromnoise.config.schema import SamplingConfig
from fromnoise.generation.conditioning import Conditioning
from fromnoise.generation.naming import describe
from fromnoise.generation.trajectory import GRID_IMAGES, MAX_FRAMES, Trajectory
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


@dataclass(frozen=True)
class Outputs:
    """The files to write beside the PNGs."""

    grid: bool = True  # of the first 64 images
    columns: int | None = None  # of the grid; None: about square
    npz: bool = False  # all images: `arr_0` uint8 (N,H,W,C), with labels `arr_1` int8 (N,K)
    gif: bool = False  # x_t from noise to image
    trajectory: bool = False  # a strip of x_t and of the predicted x_0
    times: Sequence[int] | None = None  # of the strip; None: ten
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
    then all other files.
    Raises ValueError for a seed that is repeated with the same labels.
    """
    conditioning, outputs = conditioning or Conditioning(), outputs or Outputs()
    captions = conditioning.captions(model.spec.label_names, len(seeds))
    title, heading, names, metadata = describe(model.spec, config, seeds, conditioning, captions)
    require_unique_seeds(seeds, captions)
    visited = [*visited_timesteps(config, model.denoiser.schedule), 0]
    to_pixels = partial(_to_pixels, data_range=model.spec.data_range)
    files: list[Path] = []
    save_grid = partial(_save_grid, files, folder / "steps", title)
    trajectory = Trajectory(
        visited,
        to_pixels,
        times=outputs.times if outputs.trajectory else (),
        T=model.denoiser.schedule.T,
        strips=outputs.strips,
        frames=MAX_FRAMES if outputs.gif else 0,
        save_grid=save_grid if outputs.each_step else None,
    )
    pngs: list[Path] = []
    images: list[np.ndarray] = []
    with progress_bar("images") as progress:
        for i in range(0, len(seeds), batch_size):
            rows = slice(i, i + batch_size)
            steps = model.denoise(seeds[rows], config, **conditioning.rows(rows))
            if i == 0:
                trajectory.start(visited[0], model.start(seeds[rows]))
            for step in steps:
                if i == 0:
                    trajectory.add(step)
            images.append(to_pixels(step.x))
            pngs += save_pngs(images[-1], folder, names[rows], metadata[rows])
            progress(i + len(images[-1]), len(seeds))
    every, first = np.concatenate(images), np.concatenate(images)[:GRID_IMAGES]
    if outputs.gif:
        files.append(save_gif([tile(x) for x in trajectory.frames], folder / "denoising.gif"))
    if outputs.trajectory:
        path = folder / "trajectory.png"
        files.append(strip_figure(trajectory.strip, trajectory.times, path, title=title))
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
        x_T = to_pixels(model.start(seeds[:GRID_IMAGES]))
        panels = [("$x_T$, the starting noise", x_T), ("$x_0$, the image made from it", first)]
        path = folder / "noise.png"
        files.append(grids_side_by_side(panels, path, title=title, columns=outputs.columns))
    if outputs.npz:
        arrays = {"arr_0": every.transpose(0, 2, 3, 1)}
        arrays |= {} if conditioning.cond is None else {"arr_1": conditioning.cond}
        files.append(folder / f"samples_{'x'.join(map(str, arrays['arr_0'].shape))}.npz")
        np.savez(files[-1], allow_pickle=False, **arrays)
    return pngs + files


def _to_pixels(x: Tensor, data_range: tuple[float, float]) -> np.ndarray:
    return to_uint8(x, data_range).numpy()


def _save_grid(
    files: list[Path], folder: Path, title: str, what: str, t: int, images: np.ndarray
) -> None:
    name = {"x_t": "$x_t$", "predicted_x0": "$x_0$ as predicted"}[what]
    path = folder / f"{what}-{t:04d}.png"
    files.append(grid_figure(images, path, title=f"{name} at $t$ = {t}, {title}"))
