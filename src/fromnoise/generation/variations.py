"""Images like a given one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.generation.inputs import (
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
from fromnoise.rng import require_unique_seeds


def vary_to_folder(
    model: Model,
    image: Path,
    folder: Path,
    *,
    seeds: Sequence[int],
    strength: float = 0.6,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Make an image like each of the given ones for each seed: NAME-SEED.png.

    SDEdit (Meng et al. 2022, arXiv:2108.01073): x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε at t = strength·T,
    rounded, and from there the sampler's steps to the kept times below t. 0 gives the image itself,
    as the model sees it; 1 forgets it, and is plain sampling.

    image: a file, or a folder. cond: labels in {−1, 0, +1}, (K,). how: as in `Model.denoise`.
    Returns the PNGs and a comparison. Raises ValueError, before anything is written.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"strength must lie in [0, 1], from the image itself to none of it, not {strength:g}"
        )
    require_unique_seeds(seeds)
    given = read_given(model, image, folder)
    plan, _, _ = model.way(1, cond=repeated(cond, 1), **how)
    T = model.denoiser.schedule.T
    t = round(strength * T)
    jobs = [Job(i, seed) for i in range(len(given.names)) for seed in seeds]
    made = []
    for batch in in_batches(jobs, batch_size, progress):
        rows, of_batch = [job.image for job in batch], [job.seed for job in batch]
        made.append(
            given.images[rows]
            if t == 0
            else _varied(model, given.images[rows], t, of_batch, cond, **how)
        )
    return save_results(
        np.concatenate(made),
        folder,
        given,
        jobs,
        settings={
            "edit": "vary",
            "strength": f"{strength:g}",
            "sampler": plan.sampler.name,
            "steps": str(plan.steps),
        },
        title=heading(
            f"noised to t = {t} of {T} (strength {strength:g}), then denoised", model, cond
        ),
    )


def _varied(
    model: Model, images: np.ndarray, t: int, seeds: Sequence[int], cond: np.ndarray | None, **how
) -> np.ndarray:
    origin = None
    if t < model.denoiser.schedule.T:  # at T it is the noise of plain sampling, without √ᾱ_T x_0
        x0 = as_x0(model, images)
        eps = model.start(seeds).to(x0.device)
        origin = (t, model.denoiser.schedule.add_noise(x0, eps, t))
    walk = model.denoise(seeds, origin=origin, cond=repeated(cond, len(seeds)), **how)
    return to_uint8(end_of(walk), model.spec.data_range).numpy()
