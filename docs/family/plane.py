"""Sample in the plane, with the data and the perfect denoiser of examples/two_dimensions.py."""

import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from matplotlib.axes import Axes
from torch import Tensor

from fromnoise.diffusion import SAMPLERS, sampling_timesteps

ROOT = Path(__file__).parents[2]
two = SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / "two_dimensions.py")))


def drawn(count: int, seed: int = 0) -> Tensor:
    """Return x_T: (count,2,1,1), float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 1, 1, dtype=torch.float64, generator=generator)


def walk(
    sampler: str, x_T: Tensor, steps: int, *, denoise=two.denoise, rule="log_snr", **options
) -> Tensor:
    """Return x_t at every visited timestep and at 0: (steps + 1, …), like x_T."""
    generator = torch.Generator().manual_seed(1)

    def noise(t: int) -> Tensor:
        return torch.randn(x_T.shape, dtype=x_T.dtype, generator=generator)

    times = sampling_timesteps(two.SCHEDULE, steps, rule)
    steps_of = SAMPLERS[sampler](denoise, two.SCHEDULE, x_T, times, noise=noise, **options)
    return torch.stack([x_T, *(step.x for step in steps_of)])


@cache
def exact(count: int) -> Tensor:
    """Return the solution of the probability flow from `drawn`: Heun's method, all timesteps."""
    return walk("heun", drawn(count), two.SCHEDULE.T)


def ground(panel: Axes, title: str, *, std: float = two.STD, half: float = 3.0) -> None:
    """Draw the density of the data in grey, without scales: the plane is always the same."""
    grid = torch.linspace(-half, half, 160, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    apart = torch.stack([x, y], dim=-1)[:, :, None] - two.MEANS
    density = (two.WEIGHTS * torch.exp(-apart.square().sum(dim=-1) / (2 * std**2))).sum(dim=-1)
    levels = [0.01, 0.1, 0.2, 0.3, 0.4, 0.5]
    panel.contourf(x, y, density, levels=levels, cmap="Greys", alpha=0.5)
    panel.set(aspect="equal", xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[])
    panel.set_title(title)


def dots(panel: Axes, x: Tensor, colour: str | list[str], *, size: float = 2.0) -> None:
    """Draw points of the plane. x: (B,2,1,1) or (1,2,N,1)."""
    points = x.transpose(0, 1).reshape(2, -1)
    panel.scatter(*points, c=colour, s=size, linewidths=0, alpha=0.7)
