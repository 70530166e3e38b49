"""Inpaint images (RePaint): new pixels in the white area of a mask, the rest unchanged."""

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
    Progress,
    edit_to_folder,
    last_x,
    read_inputs,
    repeat_labels,
    title_with_condition,
    to_x0,
)
from fromnoise.model.model import Model, require_finite, to_uint8
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
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Inpaint the white area of a mask, once per image and seed: NAME-SEED.png.

    By `diffusion.inpaint`: ancestral steps, each piece of `jump` of them repeated `resample` times.
    All other pixels of the image, at the model's size, are preserved exactly.

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
    model.guided_denoiser(config, 1, cond=repeat_labels(cond, 1))  # raises for unknown labels

    def edit(rows: list[int], of_rows: list[int]) -> np.ndarray:
        x = inpaint_batch(
            model,
            to_x0(model, inputs.images[rows]),
            torch.from_numpy(~masks[rows])[:, None],
            config,
            seeds=of_rows,
            resample=resample,
            jump=jump,
            cond=repeat_labels(cond, len(rows)),
        )
        return to_uint8(x, model.spec.data_range).numpy()

    settings = {"edit": "inpaint", "steps": config.steps, "resample": resample, "jump": jump}
    title = f"inpainted in {config.steps} steps, each piece of {jump} repeated {resample} ×"
    return edit_to_folder(
        edit,
        inputs,
        seeds,
        folder,
        settings={key: str(value) for key, value in settings.items()},
        title=title_with_condition(title, model, cond),
        batch_size=batch_size,
        progress=progress,
        masks=masks,
    )


def inpaint_batch(
    model: Model,
    image: Tensor,
    known: Tensor,
    config: SamplingConfig,
    *,
    seeds: Sequence[int],
    resample: int,
    jump: int,
    cond: Tensor | None = None,
) -> Tensor:
    """Return x_0 (B,C,H,W), equal to `image` where `known`, bool (B,1,H,W), is true.

    The noise is a function of (seed, t, round); in the first round it is that of `Model.sample`.
    """

    def noise(t: int, *key: Key) -> Tensor:
        return model.noise(seeds, t, *key).to(image.device)

    with torch.inference_mode():
        steps = inpaint(
            model.guided_denoiser(config, len(seeds), cond=cond),
            model.denoiser.schedule,
            model.start(seeds).to(image.device),
            visited_timesteps(config, model.denoiser.schedule),
            image=image,
            known=known.to(image.device),
            noise=noise,
            resample=resample,
            jump=jump,
            **config.sampler.options,
        )
        return last_x(require_finite(steps, seeds))


def _read_masks(model: Model, path: Path, inputs: InputImages) -> np.ndarray:
    """Return the white area of each mask, which is inpainted: bool (N, H, W)."""
    files = image_files(path)
    if Path(path).is_dir():
        missing = [name for name in inputs.names if name not in files]
        if missing:
            raise DataError(
                f"{path} has no mask for {missing[0]} ({len(missing)} of {len(inputs.names)} "
                "images). Name each mask as its image, or give one file for all."
            )
        of_each = [files[name] for name in inputs.names]
    else:
        of_each = [*files.values()] * len(inputs.names)
    return np.stack(
        [
            read_mask(mask, image=file, size=model.spec.size, fit=model.spec.fit)
            for mask, file in zip(of_each, inputs.files, strict=True)
        ]
    )
