"""Interpolate between images or seeds, through the noise."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import require_empty_folder
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.data import DataError
from fromnoise.diffusion import interpolation_starts, slerp
from fromnoise.diffusion.samplers.inversion import ddim_inversion
from fromnoise.generation.inputs import (
    SHOWN_ROWS,
    last_x,
    read_inputs,
    repeat_labels,
    title_with_condition,
    to_x0,
)
from fromnoise.model.model import Model, to_uint8
from fromnoise.model.sampling import visited_timesteps
from fromnoise.pictures import grid_figure, save_gif, save_pngs, tile
from fromnoise.progress import progress_bar

DETERMINISTIC = {"sampler": "ddim", "eta": 0.0, "precision": "fp32"}  # it leads back to the image


def interpolate_to_folder(
    model: Model,
    a: Path,
    b: Path,
    folder: Path,
    config: SamplingConfig,
    *,
    frames: int = 8,
    strength: float | None = None,
    seed: int = 0,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
) -> list[Path]:
    """Write images from a to b: a PNG for each λ from 0 to 1, a comparison and an animation.

    Without strength, `ddim_inversion` finds the noise of both images, `slerp` interpolates between
    the two, and DDIM denoises the result (Song et al. 2021, section 5.3). The ends are the images
    again, up to the error of the steps. With a strength in (0, 1] both images get the same noise at
    t = strength·T, are mixed there and denoised (Ho et al. 2020, section 4.3): a small strength
    blends the images, a large one lets the model invent what lies between. seed: of that noise.

    a, b: two files, or two folders with the same number of images, paired in order. config: without
    strength, resolved with `DETERMINISTIC`. cond: labels in {−1, 0, +1}, (K,).

    Raises ValueError: unreadable or out of range, before anything is written.
    """
    T = model.denoiser.schedule.T
    t = visited_timesteps(config, model.denoiser.schedule)[0]
    if strength is None:
        _check_deterministic(config)
    else:
        t = round(strength * T) if 0 < strength <= 1 else 0
        if t < 1:
            raise ConfigError(
                f"strength = {strength} is out of range. Use above 0 (t ≥ 1 of T = {T}) to 1."
            )
    fractions = _fractions(frames)
    first, last = read_inputs(model, a, folder), read_inputs(model, b, folder)
    if len(first.names) != len(last.names):
        raise DataError(
            f"{a} has {len(first.names)} images and {b} has {len(last.names)}. They are paired in "
            "order: give the same number of each."
        )
    ends = zip(to_x0(model, first.images), to_x0(model, last.images), strict=True)
    if strength is None:
        how = "between the noises of both"
        starts = (_slerps(_invert(model, both, config, cond), fractions) for both in ends)
    else:
        how = f"mixed at t = {t} of {T}"
        schedule, eps = model.denoiser.schedule, model.start([seed])[0].to(model.device)
        starts = (interpolation_starts(schedule, *both, fractions, t, eps) for both in ends)
    pairs = list(zip(first.names, last.names, strict=True))
    what = f"from {pairs[0][0]} to {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs"
    return _denoise_to_folder(
        model,
        starts,
        t,
        pairs,
        folder,
        config,
        fractions=fractions,
        seed=seed,
        cond=cond,
        batch_size=batch_size,
        title=title_with_condition(f"{what}, {how}", model, cond),
        ends=(first.images, last.images),
    )


def interpolate_seeds_to_folder(
    model: Model,
    seeds: Sequence[int],
    folder: Path,
    config: SamplingConfig,
    *,
    frames: int = 8,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
) -> list[Path]:
    """Write the images that DDIM makes of noise between each seed and the next.

    x_T = slerp(x_T of the one, x_T of the other, λ); at λ = 0 and 1 the images are those of
    `Model.sample` with DDIM. Files, config and cond as in `interpolate_to_folder`.
    Raises ValueError for fewer than two seeds, and as there.
    """
    if len(seeds) < 2:
        raise ConfigError(f"seeds = {seeds} are too few. Give at least 2, as in 3,8.")
    _check_deterministic(config)
    fractions = _fractions(frames)
    require_empty_folder(folder)
    starts = (_slerps(model.start(pair), fractions) for pair in pairwise(seeds))
    pairs = [(f"{a:06d}", f"{b:06d}") for a, b in pairwise(seeds)]
    listed = ", ".join(map(str, seeds[: SHOWN_ROWS + 1]))
    return _denoise_to_folder(
        model,
        starts,
        visited_timesteps(config, model.denoiser.schedule)[0],
        pairs,
        folder,
        config,
        fractions=fractions,
        seed=seeds[0],
        cond=cond,
        batch_size=batch_size,
        title=title_with_condition(f"between the noises of seeds {listed}", model, cond),
    )


def _check_deterministic(config: SamplingConfig) -> None:
    if config.sampler.name != "ddim" or config.sampler.options["eta"]:
        raise ConfigError(f"sampler = {config.sampler.name} is not DDIM with eta = 0. Use that.")


def _fractions(frames: int) -> list[float]:
    if frames < 2:
        raise ConfigError(
            f"frames = {frames} is too small. Use at least 2: the first and the last."
        )
    return torch.linspace(0, 1, frames, dtype=torch.float64).tolist()


def _invert(
    model: Model, both: Sequence[Tensor], config: SamplingConfig, cond: np.ndarray | None
) -> Tensor:
    """Return x_T of two images, by DDIM inversion: (2,C,H,W)."""
    denoise = model.guided_denoiser(config, 2, cond=repeat_labels(cond, 2))
    times = visited_timesteps(config, model.denoiser.schedule)
    with torch.inference_mode():
        return last_x(ddim_inversion(denoise, model.denoiser.schedule, torch.stack([*both]), times))


def _slerps(x_T: Tensor, fractions: Sequence[float]) -> Tensor:
    """Interpolate from the first of two x_T to the second: (frames, C, H, W)."""
    return torch.cat([slerp(x_T[:1], x_T[1:], share) for share in fractions])


def _denoise_to_folder(
    model: Model,
    starts: Iterable[Tensor],
    t: int,
    pairs: Sequence[tuple[str, str]],
    folder: Path,
    config: SamplingConfig,
    *,
    fractions: Sequence[float],
    seed: int,
    cond: np.ndarray | None,
    batch_size: int,
    title: str,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Path]:
    """Denoise x_t of each pair, (frames, C, H, W), and write the images.

    They are A-B-000.png, …, comparison.png with a row per pair, and interpolation.gif.
    ends: the input images, (pairs, C, H, W) each.
    """
    denoised: list[np.ndarray] = []
    with progress_bar("images") as progress:
        for x_t in starts:
            for part in x_t.split(batch_size):
                # the sampler's own noise is shared too, so that frames differ by λ alone
                seeds, labels = [seed] * len(part), repeat_labels(cond, len(part))
                steps = model.denoise(seeds, config, origin=(t, part), cond=labels)
                denoised.extend(to_uint8(last_x(steps), model.spec.data_range).numpy())
                progress(len(denoised), len(pairs) * len(fractions))
    names = [f"{a}-{b}-{i:03d}" for a, b in pairs for i in range(len(fractions))]
    pngs = save_pngs(np.stack(denoised), folder, names)
    results = np.stack(denoised).reshape(len(pairs), len(fractions), *denoised[0].shape)
    captions: list[str] = []
    shares = [f"λ = {share:.2f}" for share in fractions]
    rows = results
    if ends is not None:
        rows = np.concatenate([ends[0][:, None], results, ends[1][:, None]], 1)
    for a, b in pairs[:SHOWN_ROWS]:
        of_seeds = [f"seed {int(a)}", *shares[1:-1], f"seed {int(b)}"] if ends is None else []
        captions += of_seeds or [a, *shares, b]
    first = rows[:SHOWN_ROWS]
    comparison = grid_figure(
        first.reshape(-1, *denoised[0].shape),
        folder / "comparison.png",
        title=title,
        captions=captions,
        columns=first.shape[1],
    )
    frames = [tile(results[:, i]) for i in range(len(fractions))]
    return [*pngs, comparison, save_gif(frames, folder / "interpolation.gif")]
