"""Interpolate between images or seeds, through the noise."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import require_empty_folder
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError
from fromnoise.diffusion import ddim_inversion, interpolation_starts, slerp
from fromnoise.generation.edits import SHOWN_ROWS, read_inputs
from fromnoise.generation.request import Request
from fromnoise.model.model import last_x, watched
from fromnoise.model.sampling import visited_timesteps
from fromnoise.pictures import save_gif, tile

DETERMINISTIC = {"sampler": "ddim", "eta": 0.0, "precision": "fp32"}  # it leads back to the image


def interpolate_to_folder(
    request: Request,
    a: Path,
    b: Path,
    *,
    frames: int = 8,
    strength: float | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write images from a to b: a PNG for each λ from 0 to 1, a comparison and an animation.

    Without strength, `ddim_inversion` finds the noise of both images, `slerp` interpolates between
    the two, and DDIM denoises the result (Song et al. 2021, section 5.3). The ends are the images
    again, up to the error of the steps. With a strength in (0, 1] both images get the same noise at
    t = strength·T, are mixed there and denoised (Ho et al. 2020, section 4.3): a small strength
    blends the images, a large one lets the model invent what lies between. seed: of that noise.

    request: without strength, its settings are resolved with `DETERMINISTIC`. a, b: two files, or
    two folders with the same number of images, paired in order.

    Raises ValueError: unreadable or out of range, before anything is written.
    """
    model, config, schedule = request.model, request.config, request.model.denoiser.schedule
    fractions, times = _fractions(frames), visited_timesteps(config, schedule)
    t = times[0]
    if strength is not None:
        t = round(strength * schedule.T) if 0 < strength <= 1 else 0
    if t < 1:
        raise ConfigError(
            f"strength = {strength} is out of range. Use above 0 (t ≥ 1 of T = {schedule.T}) to 1."
        )
    first, last = read_inputs(request, a), read_inputs(request, b)
    if len(first.names) != len(last.names):
        raise DataError(
            f"{a} has {len(first.names)} images and {b} has {len(last.names)}. They are paired in "
            "order: give the same number of each."
        )
    eps = model.start([seed])[0].to(model.device)

    def start(x0: Tensor, other: Tensor) -> Tensor:
        if strength is not None:
            return interpolation_starts(schedule, x0, other, fractions, t, eps)
        denoise = model.guided_denoiser(config, 2, **request.conditioning.rows([0, 0]))
        inversion = ddim_inversion(denoise, schedule, torch.stack([x0, other]), times)
        return _slerps(last_x(watched(inversion)), fractions)

    pairs = list(zip(first.names, last.names, strict=True))
    what = f"from {pairs[0][0]} to {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs"
    how = "between the noises of both" if strength is None else f"mixed at t = {t} of {schedule.T}"
    starts = map(start, first.x0(model), last.x0(model))
    ends = (first.images, last.images)
    return _denoise_to_folder(request, starts, t, seed, pairs, fractions, f"{what}, {how}", ends)


def interpolate_seeds_to_folder(
    request: Request, seeds: Sequence[int], *, frames: int = 8
) -> list[Path]:
    """Write the images that DDIM makes of noise between each seed and the next.

    x_T = slerp(x_T of the one, x_T of the other, λ); at λ = 0 and 1 the images are those of
    `Model.sample` with DDIM. Files and settings as in `interpolate_to_folder`.
    Raises ValueError for fewer than two seeds, and as there.
    """
    if len(seeds) < 2:
        raise ConfigError(f"seeds = {seeds} are too few. Give at least 2, as in 3,8.")
    model, fractions = request.model, _fractions(frames)
    require_empty_folder(request.folder)
    starts = (_slerps(model.start(pair), fractions) for pair in pairwise(seeds))
    t = visited_timesteps(request.config, model.denoiser.schedule)[0]
    pairs = [(f"{a:06d}", f"{b:06d}") for a, b in pairwise(seeds)]
    title = f"between the noises of seeds {', '.join(map(str, seeds[: SHOWN_ROWS + 1]))}"
    return _denoise_to_folder(request, starts, t, seeds[0], pairs, fractions, title)


def _fractions(frames: int) -> list[float]:
    if frames < 2:
        raise ConfigError(
            f"frames = {frames} is too small. Use at least 2: the first and the last."
        )
    return torch.linspace(0, 1, frames, dtype=torch.float64).tolist()


def _slerps(x_T: Tensor, fractions: Sequence[float]) -> Tensor:
    """Interpolate from the first of two x_T to the second: (frames, C, H, W)."""
    return torch.cat([slerp(x_T[:1], x_T[1:], share) for share in fractions])


def _denoise_to_folder(
    request: Request,
    starts: Iterable[Tensor],
    t: int,
    seed: int,
    pairs: Sequence[tuple[str, str]],
    fractions: Sequence[float],
    title: str,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Path]:
    """Denoise x_t of each pair, (frames, C, H, W), and write the images.

    They are A-B-000.png, …, comparison.png with a row per pair, and interpolation.gif.
    ends: the input images, (pairs, C, H, W) each; None for the seeds `pairs`.
    """

    def denoised() -> Iterator[Tensor]:
        for part in (part for x_t in starts for part in x_t.split(request.batch_size)):
            # the sampler's own noise is shared too, so that frames differ by λ alone
            seeds, labels = [seed] * len(part), request.conditioning.rows([0] * len(part))
            yield last_x(request.model.denoise(seeds, request.config, origin=(t, part), **labels))

    names = [f"{a}-{b}-{i:03d}" for a, b in pairs for i in range(len(fractions))]
    pngs, images = request.write(denoised(), names, [{}] * len(names))
    results = images.reshape(len(pairs), len(fractions), *images.shape[1:])
    shares = [f"λ = {share:.2f}" for share in fractions]
    rows = []
    for i, (a, b) in enumerate(pairs[:SHOWN_ROWS]):
        if ends is None:
            captions, row = [f"seed {int(a)}", *shares[1:-1], f"seed {int(b)}"], results[i]
        else:
            captions, row = [a, *shares, b], [ends[0][i], *results[i], ends[1][i]]
        rows.append(list(zip(captions, row, strict=True)))
    frames = [tile(each) for each in results.swapaxes(0, 1)]
    animation = save_gif(frames, request.folder / "interpolation.gif")
    return [*pngs, request.compare(rows, title), animation]
