"""The recorded steps of a trajectory from noise to images, for its pictures."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import Step

GRID_IMAGES = 64  # in a grid and in the animation
STRIP_TIMES = 10
MAX_FRAMES = 60


class Trajectory:
    """Some of the steps of one batch: call `start` with x_T, and `add` with every step."""

    def __init__(
        self,
        visited: Sequence[int],
        to_pixels: Callable[[Tensor], np.ndarray],
        *,
        times: Sequence[int] | None = None,
        T: int | None = None,
        strips: int = 4,
        frames: int = MAX_FRAMES,
        save_grid: Callable[[str, int, np.ndarray], None] | None = None,
    ) -> None:
        """Prepare to record.

        Args:
            visited: falling times of the sampler, from its first t to 0.
            to_pixels: (B,C,H,W) → uint8.
            times: of the strip, in {0..T}; the nearest visited ones are shown. None: ten.
            strips: images in the strip.
            frames: of the animation, at most.
            save_grid: called with ("x_t" or "predicted_x0", t, images) at every step.
        """
        last = T or visited[0]
        if times is None:
            times = [visited[i] for i in _evenly_spaced(len(visited), STRIP_TIMES)]
        if outside := [t for t in times if not 0 <= t <= last]:
            raise ConfigError(f"times = {outside[0]} is out of range. Use 0 to {last}.")
        nearest = {min(visited, key=lambda kept: abs(kept - t)) for t in times}
        self.times = sorted(nearest, reverse=True)
        self.frames: list[np.ndarray] = []  # x_t of the first images
        self._to_pixels, self._strips, self._save_grid = to_pixels, strips, save_grid
        self._frame_times = {visited[i] for i in _evenly_spaced(len(visited), frames)}
        self._x: dict[int, np.ndarray] = {}  # t → x_t of the first images
        self._x0: dict[int, np.ndarray] = {}  # t → x̂_0 predicted from that x_t

    def start(self, t: int, x: Tensor) -> None:
        """Record x_t, or x_s of a step."""
        if t in self._frame_times:
            self.frames.append(self._to_pixels(x[:GRID_IMAGES]))
        if t in self.times:
            self._x[t] = self._to_pixels(x[: self._strips])
        if self._save_grid is not None:
            self._save_grid("x_t", t, self._to_pixels(x[:GRID_IMAGES]))

    def add(self, step: Step) -> None:
        """Record x_s and the x̂_0 that was predicted from x_t."""
        if step.t in self.times:
            self._x0[step.t] = self._to_pixels(step.x0[: self._strips])
        if self._save_grid is not None:
            self._save_grid("predicted_x0", step.t, self._to_pixels(step.x0[:GRID_IMAGES]))
        self.start(step.s, step.x)

    @property
    def strip(self) -> list[tuple[str, np.ndarray]]:
        """Return two rows per image: x_t and the predicted x_0. At t = 0 both are the result."""
        x0 = self._x0 | {0: self._x[0]} if 0 in self._x else self._x0
        return [
            (label, np.stack([series[t][i] for t in self.times]))
            for i in range(len(next(iter(self._x.values()))))
            for label, series in (("$x_t$", self._x), ("predicted $x_0$", x0))
        ]


def _evenly_spaced(count: int, at_most: int) -> list[int]:
    """Return indices from 0 to count−1, both included, evenly spaced."""
    return torch.linspace(0, count - 1, min(at_most, count)).round().int().tolist()
