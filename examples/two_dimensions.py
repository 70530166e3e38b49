"""Every sampler's paths from noise to data, in two dimensions, where all is known.

    python examples/two_dimensions.py paths.png

The data are three round Gaussians in the plane. For these E[x_0 | x_t] is a formula, so there is
nothing to train: the denoiser below is perfect, and whatever goes wrong is the sampler's doing.
"""

import sys
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from fromnoise.diffusion import SAMPLERS, NoiseSchedule, Prediction, sampling_timesteps

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# ---- the data: which of three Gaussians, and where in it -----------------------------------------

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[-1.4, -0.8], [1.5, -0.6], [0.1, 1.5]], dtype=torch.float64)
STD = 0.22
COLOURS = ["#0072b2", "#d55e00", "#009e73"]

# ---- the forward process, and the denoiser that inverts it ---------------------------------------

SCHEDULE = NoiseSchedule.named("linear", 1000)


def denoise(x_t: Tensor, t: int, *, weights: Tensor = WEIGHTS, std: float = STD) -> Prediction:
    """x̂_0 = E[x_0 | x_t] = Σ_k r_k E[x_0 | x_t, k], r_k being p(k | x_t). x_t: (B,2,1,1)."""
    alpha_bar = SCHEDULE.alpha_bar[t]
    alpha, variance = alpha_bar.sqrt(), alpha_bar * std**2 + (1 - alpha_bar)
    apart = x_t[:, None, :, 0, 0] - alpha * MEANS  # (B,3,2): from the centre of each Gaussian at t
    r = (weights.log() - apart.square().sum(dim=-1) / (2 * variance)).softmax(dim=1)  # (B,3)
    of_each = MEANS + alpha * std**2 / variance * apart  # (B,3,2)
    x0 = (r[..., None] * of_each).sum(dim=1)[:, :, None, None]
    return Prediction("x0", x0, x_t, alpha, (1 - alpha_bar).sqrt())


# ---- from noise to data --------------------------------------------------------------------------

WAYS = {
    "ddpm, small variance": partial(SAMPLERS["ddpm"], variance="small"),
    "ddpm, large variance": partial(SAMPLERS["ddpm"], variance="large"),
    "ddim, η = 1": partial(SAMPLERS["ddim"], eta=1.0),
    "dpm++sde": SAMPLERS["dpm++sde"],
    "ddim, η = 0 (euler)": SAMPLERS["ddim"],
    "heun": SAMPLERS["heun"],
    "ipndm": SAMPLERS["ipndm"],
    "dpm++": SAMPLERS["dpm++"],
    "unipc": SAMPLERS["unipc"],
}


def paths(way: str, count: int, steps: int) -> Tensor:
    """x_t of `count` samples at every kept time and at 0: (steps + 1, count, 2)."""
    generator = torch.Generator().manual_seed(0)

    def noise(t: int) -> Tensor:
        return torch.randn(count, 2, 1, 1, dtype=torch.float64, generator=generator)

    x_T = noise(SCHEDULE.T)
    times = sampling_timesteps(SCHEDULE, steps, "log_snr")
    walk = WAYS[way](denoise, SCHEDULE, x_T, times, noise=noise)
    return torch.stack([x_T, *(step.x for step in walk)])[..., 0, 0]


def nearest(x: Tensor) -> Tensor:
    """Which of the three each point belongs to. x: (B,2)."""
    return torch.cdist(x, MEANS).argmin(dim=1)


def shares(way: str, count: int, steps: int) -> Tensor:
    """How many samples end in each of the three, as a share; the data have WEIGHTS."""
    return nearest(paths(way, count, steps)[-1]).bincount(minlength=3) / count


# ---- the picture ---------------------------------------------------------------------------------


def draw(out: Path, *, steps: int = 20, shown: int = 30, counted: int = 20_000) -> Path:
    """A panel for each way: the paths of the same starting points over the density of the data."""
    figure, panels = plt.subplots(3, 3, figsize=(12, 13.2), layout="constrained", dpi=100)
    grid = torch.linspace(-3, 3, 200, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    apart = torch.stack([x, y], dim=-1)[:, :, None] - MEANS  # (200,200,3,2)
    density = (WEIGHTS * torch.exp(-apart.square().sum(dim=-1) / (2 * STD**2))).sum(dim=-1)
    for panel, way in zip(panels.flat, WAYS, strict=True):
        panel.contourf(x, y, density, levels=np.linspace(0.01, 0.5, 6), cmap="Greys", alpha=0.6)
        walked = paths(way, shown, steps)
        for k, colour in enumerate(COLOURS):
            to_k = walked[:, nearest(walked[-1]) == k]
            panel.plot(*to_k.unbind(-1), color=colour, linewidth=0.8, alpha=0.7)
            panel.plot(*to_k[0].unbind(-1), ".", color="0.35", markersize=2.5)
            panel.plot(*to_k[-1].unbind(-1), ".", color=colour, markersize=5)
        ends = " / ".join(f"{share:.3f}" for share in shares(way, counted, steps))
        panel.set_title(f"{way}\n{ends}", fontsize=10)
        panel.set(aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
    figure.suptitle(
        f"{shown} paths from noise (grey) to three Gaussians of weights 0.5 / 0.3 / 0.2, {steps} "
        f"steps;\nunder each name the shares in which {counted:,} samples end there",
        fontsize=12,
    )
    figure.savefig(out)
    plt.close(figure)
    return out


if __name__ == "__main__":
    print(draw(Path(sys.argv[1] if len(sys.argv) > 1 else "paths.png")).absolute())
