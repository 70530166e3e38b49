"""Vary images (SDEdit): noise them, and denoise them again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.generation.inputs import (
    edit_to_folder,
    last_x,
    read_inputs,
    repeat_labels,
    title_with_condition,
    to_x0,
)
from fromnoise.model.model import Model, to_uint8
from fromnoise.rng import require_unique_seeds


def vary_to_folder(
    model: Model,
    image: Path,
    folder: Path,
    config: SamplingConfig,
    *,
    seeds: Sequence[int],
    strength: float = 0.6,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
) -> list[Path]:
    """Write a variation of each input image for each seed: NAME-SEED.png.

    SDEdit (Meng et al. 2022, arXiv:2108.01073): x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε at t = strength·T,
    rounded, then the sampler's steps to the timesteps below t. Strength 0 returns the image at the
    model's size; 1 ignores it, and is plain sampling.

    image: a file or a folder. cond: labels in {−1, 0, +1}, (K,).
    Returns the PNGs and a comparison. Raises ValueError before anything is written.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"strength = {strength:g} is out of range. Use 0 (the image) to 1 (none of it)."
        )
    require_unique_seeds(seeds)
    inputs = read_inputs(model, image, folder)
    model.guided_denoiser(config, 1, cond=repeat_labels(cond, 1))  # raises for unknown labels
    T = model.denoiser.schedule.T
    t = round(strength * T)

    def edit(rows: list[int], of_rows: list[int]) -> np.ndarray:
        images = inputs.images[rows]
        return images if t == 0 else _vary(model, images, t, config, of_rows, cond)

    sampler, steps = config.sampler.name, str(config.steps)
    title = f"noised to t = {t} of {T} (strength {strength:g}), then denoised"
    return edit_to_folder(
        edit,
        inputs,
        seeds,
        folder,
        settings={"edit": "vary", "strength": f"{strength:g}", "sampler": sampler, "steps": steps},
        title=title_with_condition(title, model, cond),
        batch_size=batch_size,
    )


def _vary(
    model: Model,
    images: np.ndarray,
    t: int,
    config: SamplingConfig,
    seeds: Sequence[int],
    cond: np.ndarray | None,
) -> np.ndarray:
    origin = None
    if t < model.denoiser.schedule.T:  # at T it is the noise of plain sampling, without √ᾱ_T x_0
        x0 = to_x0(model, images)
        eps = model.start(seeds).to(x0.device)
        origin = (t, model.denoiser.schedule.add_noise(x0, eps, t))
    steps = model.denoise(seeds, config, origin=origin, cond=repeat_labels(cond, len(seeds)))
    return to_uint8(last_x(steps), model.spec.data_range).numpy()
