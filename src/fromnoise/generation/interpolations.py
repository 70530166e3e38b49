"""From one image to another, or from one seed to another, through the noise."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import require_empty_folder
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError
from fromnoise.diffusion import ddim_inversion, interpolation_starts, sampling_timesteps, slerp
from fromnoise.generation.inputs import (
    SHOWN_ROWS,
    Progress,
    as_x0,
    end_of,
    heading,
    read_given,
    repeated,
)
from fromnoise.model.model import Model, to_uint8
from fromnoise.pictures import grid_figure, save_gif, save_pngs, tile

DETERMINISTIC = {"sampler": "ddim", "eta": 0.0}


def interpolate_to_folder(
    model: Model,
    a: Path,
    b: Path,
    folder: Path,
    *,
    frames: int = 8,
    strength: float | None = None,
    seed: int = 0,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Write images from a to b: a PNG for each λ from 0 to 1, a comparison and an animation.

    Where strength is None, both images are led to the noise that DDIM makes them from
    (`ddim_inversion`), `slerp` goes from the one noise to the other, and DDIM makes an image of
    each (Song et al. 2021, section 5.3): the ends are the images again, as nearly as the steps
    allow. With a strength in (0, 1] both get the same noise at t = strength·T, are mixed there,
    and the mixtures are denoised (Ho et al. 2020, section 4.3): little keeps both as they are and
    blends them, much lets the model invent what lies between. seed: of that noise.

    a, b: two files, or two folders with as many images, which are paired in their order. cond:
    labels in {−1, 0, +1}, (K,). how: as in `Model.denoise`, without strength but for the sampler.
    Raises ValueError for what cannot be read or is out of range, before anything is written.
    """
    model = Model(model.denoiser, model.spec)  # fp32: the way out must lead back to the images
    T = model.denoiser.schedule.T
    t = 0
    if strength is not None:
        t = round(strength * T) if 0 < strength <= 1 else 0
        if t < 1:
            raise ConfigError(
                f"strength must lie in (0, 1] and reach t ≥ 1 of T = {T}, not {strength}"
            )
    fractions = _fractions(frames)
    first, last = read_given(model, a, folder), read_given(model, b, folder)
    if len(first.names) != len(last.names):
        raise DataError(
            f"{a} has {len(first.names)} images and {b} has {len(last.names)}; they are paired in "
            "their order, so give as many of each"
        )
    ends = zip(as_x0(model, first.images), as_x0(model, last.images), strict=True)
    if strength is None:
        how = {**how, **DETERMINISTIC}
        t, way = _times(model, **how)[0], "between the noises of both"
        starts = (_between(_inverted(model, both, cond, **how), fractions) for both in ends)
    else:
        schedule, eps = model.denoiser.schedule, model.start([seed])[0].to(model.device)
        way = f"mixed at t = {t} of {T}"
        starts = (interpolation_starts(schedule, *both, fractions, t, eps) for both in ends)
    made = _denoised(
        model, starts, (len(first.names), frames), t, seed, cond, batch_size, progress, **how
    )
    pairs = list(zip(first.names, last.names, strict=True))
    what = f"from {pairs[0][0]} to {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs"
    title = heading(f"{what}, {way}", model, cond)
    return _save(made, folder, pairs, fractions, title, (first.images, last.images))


def interpolate_seeds_to_folder(
    model: Model,
    seeds: Sequence[int],
    folder: Path,
    *,
    frames: int = 8,
    cond: np.ndarray | None = None,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Write the images that DDIM makes of noise between that of each seed and of the next.

    x_T = slerp(x_T of the one, x_T of the other, λ); at λ = 0 and 1 it is what `Model.sample`
    makes of the seeds with DDIM. Files, cond and how as in `interpolate_to_folder`.
    Raises ValueError for fewer than two seeds, and as there.
    """
    if len(seeds) < 2:
        raise ConfigError(f"an interpolation needs at least 2 seeds, as in 3,8; not {len(seeds)}")
    fractions = _fractions(frames)
    require_empty_folder(folder)
    how = {**how, **DETERMINISTIC}
    starts = (_between(model.start(pair), fractions) for pair in pairwise(seeds))
    t, count = _times(model, **how)[0], len(seeds) - 1
    made = _denoised(model, starts, (count, frames), t, seeds[0], cond, batch_size, progress, **how)
    pairs = [(f"{a:06d}", f"{b:06d}") for a, b in pairwise(seeds)]
    listed = ", ".join(map(str, seeds[: SHOWN_ROWS + 1]))
    title = heading(f"between the noises of seeds {listed}", model, cond)
    return _save(made, folder, pairs, fractions, title)


def _fractions(frames: int) -> list[float]:
    if frames < 2:
        raise ConfigError(f"frames must be at least 2, the first and the last, not {frames}")
    return torch.linspace(0, 1, frames, dtype=torch.float64).tolist()


def _times(model: Model, **how: Any) -> list[int]:
    plan = model.sampling_plan(**how)
    return sampling_timesteps(model.denoiser.schedule, plan.steps, plan.timesteps)


def _inverted(model: Model, both: Sequence[Tensor], cond: np.ndarray | None, **how: Any) -> Tensor:
    """x_T of two images: (2,C,H,W)."""
    _, times, denoise = model.way(2, cond=repeated(cond, 2), **how)
    with torch.inference_mode():
        return end_of(ddim_inversion(denoise, model.denoiser.schedule, torch.stack([*both]), times))


def _between(x_T: Tensor, fractions: Sequence[float]) -> Tensor:
    """From the first of two x_T to the second: (frames, C, H, W)."""
    return torch.cat([slerp(x_T[:1], x_T[1:], share) for share in fractions])


def _denoised(
    model: Model,
    starts: Iterable[Tensor],
    counts: tuple[int, int],
    t: int,
    seed: int,
    cond: np.ndarray | None,
    batch_size: int,
    progress: Progress,
    **how: Any,
) -> np.ndarray:
    """What x_t, (frames, C, H, W) for each pair, becomes: uint8 (pairs, frames, C, H, W)."""
    pairs, frames = counts
    made = []
    for x_t in starts:
        for part in x_t.split(batch_size):
            # the sampler's own noise is shared too, so that frames differ by λ alone
            way = {"seeds": [seed] * len(part), "cond": repeated(cond, len(part)), **how}
            x0 = end_of(model.denoise(origin=(t, part), **way))
            made.append(to_uint8(x0, model.spec.data_range).numpy())
            progress(sum(map(len, made)), pairs * frames)
    return np.concatenate(made).reshape(pairs, frames, *made[0].shape[1:])


def _save(
    made: np.ndarray,
    folder: Path,
    pairs: Sequence[tuple[str, str]],
    fractions: Sequence[float],
    title: str,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Path]:
    """Write A-B-000.png, …, comparison.png with a row for each pair, and interpolation.gif.

    made: uint8 (pairs, frames, C, H, W). ends: the given images, (pairs, C, H, W) each.
    """
    names = [f"{a}-{b}-{i:03d}" for a, b in pairs for i in range(len(fractions))]
    pngs = save_pngs(made.reshape(-1, *made.shape[2:]), folder, names)
    captions: list[str] = []
    shares = [f"λ = {share:.2f}" for share in fractions]
    for a, b in pairs[:SHOWN_ROWS]:
        captions += [f"seed {int(a)}", *shares[1:-1], f"seed {int(b)}"] if ends is None else []
        captions += [a, *shares, b] if ends is not None else []
    rows = made if ends is None else np.concatenate([ends[0][:, None], made, ends[1][:, None]], 1)
    shown = rows[:SHOWN_ROWS]
    comparison = grid_figure(
        shown.reshape(-1, *made.shape[2:]),
        folder / "comparison.png",
        title=title,
        captions=captions,
        columns=shown.shape[1],
    )
    film = [tile(made[:, i]) for i in range(len(fractions))]
    return [*pngs, comparison, save_gif(film, folder / "interpolation.gif")]
