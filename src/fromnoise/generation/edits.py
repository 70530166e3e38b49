"""Edit images: inpaint the white area of a mask (RePaint), or vary them (SDEdit)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.data import DataError, image_files, read_mask
from fromnoise.diffusion import inpaint
from fromnoise.generation.inputs import (
    InputImages,
    edit_to_folder,
    last_x,
    read_inputs,
    repeat_labels,
    title_with_condition,
    to_x0,
)
from fromnoise.model.model import Model, require_finite
from fromnoise.model.sampling import visited_timesteps
from fromnoise.rng import Key, require_unique_seeds


def inpaint_to_folder(
    model: Model,
    image: Path,
    mask: Path,
    folder: Path,
    config: SamplingConfig,
    *,
    seeds: Sequence[int],
    resample: int = 10,
    jump: int = 5,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
) -> list[Path]:
    """Inpaint the white area of a mask, once per image and seed: NAME-SEED.png.

    By `diffusion.inpaint`: ancestral steps, each piece of `jump` of them repeated `resample` times.
    All other pixels of the image, at the model's size, are preserved exactly. The noise is a
    function of (seed, t, round); in the first round it is that of `Model.sample`.

    image: a file or a folder. mask: a file for all images, or a folder with a mask named as each
    image; see `read_mask`. config: its sampler is ddpm. cond: labels in {−1, 0, +1}, (K,).
    Returns the PNGs and a comparison. Raises ValueError before anything is written.
    """
    if resample < 1 or jump < 1:
        raise ConfigError(
            f"resample = {resample}, jump = {jump} are out of range. Use at least 1 for both."
        )
    if config.sampler.name != "ddpm":
        raise ConfigError(f"sampler = {config.sampler.name} cannot inpaint. Use ddpm.")
    require_unique_seeds(seeds)
    inputs = read_inputs(model, image, folder)
    masks = _read_masks(model, mask, inputs)
    schedule = model.denoiser.schedule

    def edit(rows: list[int], seeds: list[int]) -> Tensor:
        def noise(t: int, *key: Key) -> Tensor:
            return model.noise(seeds, t, *key).to(model.device)

        steps = inpaint(
            model.guided_denoiser(config, len(seeds), cond=repeat_labels(cond, len(seeds))),
            schedule,
            noise(0),
            visited_timesteps(config, schedule),
            image=to_x0(model, inputs.images[rows]),
            known=torch.from_numpy(~masks[rows])[:, None].to(model.device),
            noise=noise,
            resample=resample,
            jump=jump,
            **config.sampler.options,
        )
        return last_x(require_finite(steps, seeds))

    settings = {"edit": "inpaint", "steps": config.steps, "resample": resample, "jump": jump}
    title = f"inpainted in {config.steps} steps, each piece of {jump} repeated {resample} ×"
    return edit_to_folder(
        model,
        edit,
        inputs,
        seeds,
        folder,
        settings=settings,
        title=title_with_condition(title, model, cond),
        batch_size=batch_size,
        masks=masks,
    )


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

    Other arguments, results and errors as in `inpaint_to_folder`.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"strength = {strength:g} is out of range. Use 0 (the image) to 1 (none of it)."
        )
    require_unique_seeds(seeds)
    inputs = read_inputs(model, image, folder)
    schedule = model.denoiser.schedule
    t = round(strength * schedule.T)

    def edit(rows: list[int], seeds: list[int]) -> Tensor:
        x0 = to_x0(model, inputs.images[rows])
        if t == 0:
            return x0
        origin = None
        if t < schedule.T:  # at T it is the noise of plain sampling, without √ᾱ_T x_0
            origin = (t, schedule.add_noise(x0, model.start(seeds).to(x0.device), t))
        labels = repeat_labels(cond, len(seeds))
        return last_x(model.denoise(seeds, config, origin=origin, cond=labels))

    settings = {"edit": "vary", "strength": f"{strength:g}"}
    settings |= {"sampler": config.sampler.name, "steps": config.steps}
    title = f"noised to t = {t} of {schedule.T} (strength {strength:g}), then denoised"
    return edit_to_folder(
        model,
        edit,
        inputs,
        seeds,
        folder,
        settings=settings,
        title=title_with_condition(title, model, cond),
        batch_size=batch_size,
    )


def _read_masks(model: Model, path: Path, inputs: InputImages) -> np.ndarray:
    """Return the white area of each mask, which is inpainted: bool (N, H, W)."""
    masks = image_files(path)
    if not path.is_dir():
        masks = dict.fromkeys(inputs.names, *masks.values())
    if missing := [name for name in inputs.names if name not in masks]:
        raise DataError(
            f"{path} has no mask for {missing[0]} ({len(missing)} of {len(inputs.names)} "
            "images). Name each mask as its image, or give one file for all."
        )
    how = {"size": model.spec.size, "fit": model.spec.fit}
    files = zip(inputs.names, inputs.files, strict=True)
    return np.stack([read_mask(masks[name], image=file, **how) for name, file in files])
