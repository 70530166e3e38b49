"""From given images to new ones, as files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise.config import ConfigError
from fromnoise.data import read_image
from fromnoise.data.batches import to_float
from fromnoise.diffusion.editing import interpolation_starts
from fromnoise.model import Model, to_uint8
from fromnoise.pictures import grid_figure, save_gif, save_pngs, tile


def interpolate_to_folder(
    model: Model,
    a: Path,
    b: Path,
    folder: Path,
    *,
    frames: int = 8,
    strength: float = 0.5,
    seed: int = 0,
    **how: Any,
) -> list[Path]:
    """Write images from a to b: a PNG for each λ from 0 to 1, a grid and an animation.

    Both images get the same noise at t = strength·T, are mixed there, and the mixtures are denoised
    (Ho et al. 2020, section 4.3). strength in (0, 1): little keeps both as they are and blends
    them, much lets the model invent what lies between. how: as in `Model.denoise`.
    Raises ValueError for an image that cannot be read, or a strength outside.
    """
    spec, T = model.spec, model.denoiser.schedule.T
    t = round(strength * T)
    if not 0 < strength <= 1 or t < 1:
        raise ConfigError(f"strength must lie in (0, 1] and reach t ≥ 1 of T = {T}, not {strength}")
    given = [
        torch.tensor(
            read_image(
                path,
                size=spec.size,
                channels=spec.channels,
                fit=spec.fit,
                background=spec.background,
            )
        )
        for path in (a, b)
    ]
    low, high = spec.data_range
    x0_a, x0_b = ((to_float(image) + 1) / 2 * (high - low) + low for image in given)
    fractions = torch.linspace(0, 1, frames).tolist()
    x_t = interpolation_starts(
        model.denoiser.schedule, x0_a, x0_b, fractions, t, model.start([seed])[0]
    )
    seeds = [seed] * frames  # the sampler's own noise is shared too, so that frames differ by λ
    *_, last = model.denoise(seeds, origin=(t, x_t), **how)
    images = to_uint8(last.x, model.spec.data_range).numpy()
    captions = [f"λ = {fraction:.2f}" for fraction in fractions]
    pngs = save_pngs(images, folder, [f"{i:03d}" for i in range(frames)])
    inputs = torch.stack(given).numpy()
    shown = np.concatenate([inputs[:1], images, inputs[1:]])
    grid = grid_figure(
        shown,
        folder / "grid.png",
        title=f"from {a.name} to {b.name}, mixed at t = {t} of {T}",
        captions=["a", *captions, "b"],
        columns=frames + 2,
    )
    gif = save_gif([tile(image[None]) for image in images], folder / "interpolation.gif")
    return [*pngs, grid, gif]
