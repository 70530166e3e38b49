"""Pictures of a trajectory from noise to images: an animation, a strip, a grid of every step."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import Step
from fromnoise.pictures import grid_figure, save_gif, strip_figure, tile

GRID_IMAGES = 64  # in a grid and in the animation
STRIP_TIMES = 10
MAX_FRAMES = 60


class Trajectory:
    """Record some of the steps of one batch, and write them as pictures.

    Call `start` with x_T, `add` with every step, and `save_animation` or `save_strip`.
    """

    def __init__(
        self,
        visited: Sequence[int],
        to_pixels: Callable[[Tensor], np.ndarray],
        *,
        times: Sequence[int] | None = None,
        strips: int = 4,
        frames: int = MAX_FRAMES,
        steps_folder: Path | None = None,
        title: str = "",
    ) -> None:
        """Prepare to record.

        Args:
            visited: falling times of the sampler, from its first t to 0.
            to_pixels: (B,C,H,W) → uint8.
            times: of the strip, in {0..T}; the nearest visited ones are shown. None: ten.
            strips: images in the strip.
            frames: of the animation, at most.
            steps_folder: where a grid of each step is written; None writes none.
            title: of these grids.
        """
        first = visited[0]
        if times is None:
            times = [visited[i] for i in _evenly_spaced(len(visited), STRIP_TIMES)]
        if outside := [t for t in times if not 0 <= t <= first]:
            raise ConfigError(f"times = {outside[0]} is out of range. Use 0 to {first}.")
        nearest = {min(visited, key=lambda kept: abs(kept - t)) for t in times}
        self.times = sorted(nearest, reverse=True)
        self.frames: list[np.ndarray] = []
        self._to_pixels, self._strips = to_pixels, strips
        self._steps_folder, self._title = steps_folder, title
        self._frame_times = {visited[i] for i in _evenly_spaced(len(visited), frames)}
        self._x: dict[int, np.ndarray] = {}  # t → x_t of the first images
        self._x0: dict[int, np.ndarray] = {}  # t → x̂_0 predicted from that x_t
        self.files: list[Path] = []  # of the steps

    def start(self, t: int, x: Tensor) -> None:
        """Record x_t at the start."""
        self._record(t, x)

    def add(self, step: Step) -> None:
        """Record x_s and the x̂_0 that was predicted from x_t."""
        if step.t in self.times:
            self._x0[step.t] = self._to_pixels(step.x0[: self._strips])
        if self._steps_folder is not None:
            self._save_grid(step.x0, f"predicted_x0-{step.t:04d}", "$x_0$ as predicted", step.t)
        self._record(step.s, step.x)

    def save_animation(self, path: Path) -> Path:
        """Write x_t from noise to image as a GIF."""
        return save_gif(self.frames, path)

    def save_strip(self, path: Path, title: str) -> Path:
        """Write two rows per image: x_t and the predicted x_0. At t = 0 both show the result."""
        x0 = self._x0 | {0: self._x[0]} if 0 in self._x else self._x0
        rows = []
        for i in range(len(next(iter(self._x.values())))):
            for label, series in (("$x_t$", self._x), ("predicted $x_0$", x0)):
                rows.append((label, np.stack([series[t][i] for t in self.times])))
        return strip_figure(rows, self.times, path, title=title)

    def _record(self, t: int, x: Tensor) -> None:
        if t in self._frame_times:
            self.frames.append(tile(self._to_pixels(x[:GRID_IMAGES])))
        if t in self.times:
            self._x[t] = self._to_pixels(x[: self._strips])
        if self._steps_folder is not None:
            self._save_grid(x, f"x_t-{t:04d}", "$x_t$", t)

    def _save_grid(self, x: Tensor, name: str, what: str, t: int) -> None:
        assert self._steps_folder is not None
        path, title = self._steps_folder / f"{name}.png", f"{what} at $t$ = {t}, {self._title}"
        self.files.append(grid_figure(self._to_pixels(x[:GRID_IMAGES]), path, title=title))


def _evenly_spaced(count: int, at_most: int) -> list[int]:
    """Return indices from 0 to count−1, both included, evenly spaced."""
    return torch.linspace(0, count - 1, min(at_most, count)).round().int().tolist()
