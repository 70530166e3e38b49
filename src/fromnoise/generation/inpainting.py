"""A part of an image made anew, the rest left as it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError, image_files, read_mask
from fromnoise.diffusion import inpaint
from fromnoise.generation.inputs import (
    Given,
    Job,
    Progress,
    as_x0,
    end_of,
    heading,
    in_batches,
    read_given,
    repeated,
    save_results,
)
from fromnoise.model.model import Model, to_uint8
from fromnoise.rng import Key, require_unique_seeds


def inpaint_to_folder(
    model: Model,
    image: Path,
    mask: Path,
    folder: Path,
    *,
    seeds: Sequence[int],
    resample: int = 10,
    jump: int = 5,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Make the white part of the mask anew, once for each image and seed: NAME-SEED.png.

    By `diffusion.inpaint`: ancestral steps, each piece of `jump` of them walked `resample` times.
    What is black is the image as the model sees it, byte for byte. image: a file, or a folder;
    mask: a file for all of them, or a folder with one of each image's name; see `read_mask`.
    cond: labels in {−1, 0, +1}, (K,). how: as in `Model.denoise`, but for the sampler.
    Returns the PNGs and a comparison. Raises ValueError, before anything is written.
    """
    if resample < 1 or jump < 1:
        raise ConfigError(f"resample and jump must be at least 1, not {resample} and {jump}")
    require_unique_seeds(seeds)
    given = read_given(model, image, folder)
    masks = _read_masks(model, mask, given)
    plan, _, _ = model.way(1, cond=repeated(cond, 1), sampler="ddpm", **how)
    jobs = [Job(i, seed) for i in range(len(given.names)) for seed in seeds]
    made = []
    for batch in in_batches(jobs, batch_size, progress):
        rows = [job.image for job in batch]
        x = inpainted(
            model,
            as_x0(model, given.images[rows]),
            torch.from_numpy(~masks[rows])[:, None],
            seeds=[job.seed for job in batch],
            resample=resample,
            jump=jump,
            cond=repeated(cond, len(batch)),
            **how,
        )
        made.append(to_uint8(x, model.spec.data_range).numpy())
    return save_results(
        np.concatenate(made),
        folder,
        given,
        jobs,
        settings={
            "edit": "inpaint",
            "steps": str(plan.steps),
            "resample": str(resample),
            "jump": str(jump),
        },
        title=heading(
            f"made anew in {plan.steps} steps, each piece of {jump} walked {resample} ×",
            model,
            cond,
        ),
        masks=masks,
    )


def inpainted(
    model: Model,
    image: Tensor,
    known: Tensor,
    *,
    seeds: Sequence[int],
    resample: int,
    jump: int,
    cond: Tensor | None = None,
    **how: Any,
) -> Tensor:
    """x_0 (B,C,H,W), which is `image` where `known`, bool (B,1,H,W), is true.

    The noise is a function of (seed, t, round), and in the first round that of `Model.sample`.
    """
    plan, times, denoise = model.way(len(seeds), cond=cond, sampler="ddpm", **how)

    def noise(t: int, *key: Key) -> Tensor:
        return model.noise(seeds, t, *key).to(image.device)

    with torch.inference_mode():
        walk = inpaint(
            denoise,
            model.denoiser.schedule,
            model.start(seeds).to(image.device),
            times,
            image=image,
            known=known.to(image.device),
            noise=noise,
            resample=resample,
            jump=jump,
            **plan.sampler.options,
        )
        return end_of(walk)


def _read_masks(model: Model, path: Path, given: Given) -> np.ndarray:
    """Where each image is to be made anew: bool (N, H, W)."""
    files = image_files(path)
    if Path(path).is_dir():
        missing = [name for name in given.names if name not in files]
        if missing:
            raise DataError(
                f"{path} has no mask for the image {missing[0]} ({len(missing)} of "
                f"{len(given.names)} have none); give each mask the name of its image, or one file "
                "for all"
            )
        of_each = [files[name] for name in given.names]
    else:
        of_each = [*files.values()] * len(given.names)
    return np.stack(
        [
            read_mask(mask, image=file, size=model.spec.size, fit=model.spec.fit)
            for mask, file in zip(of_each, given.files, strict=True)
        ]
    )
