"""Edit images: inpaint the white area of a mask (RePaint), vary (SDEdit), interpolate (DDIM)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import require_empty_folder
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.data import DataError, image_files, read_image, read_mask
from fromnoise.diffusion import ddim_inversion, inpaint, interpolation_starts, slerp
from fromnoise.diffusion.schedule import on_device
from fromnoise.generation.request import Request
from fromnoise.model.model import Model, last_x, watched
from fromnoise.model.sampling import visited_timesteps
from fromnoise.pictures import save_gif, save_npz, tile
from fromnoise.rng import Key, require_unique_seeds

SHOWN_ROWS, SHOWN_COLUMNS = 8, 10  # images of a comparison, and results of each
MASKED = np.uint8(128)  # grey
DETERMINISTIC = {"sampler": "ddim", "eta": 0.0, "precision": "fp32"}  # inverts `ddim_inversion`
Edit = Callable[[Tensor, list[int], list[int]], Tensor]  # x_0, seeds, indices of images → x_0


class InputImages(NamedTuple):
    """Images at the model's size and channels."""

    files: list[Path]
    names: list[str]
    images: np.ndarray  # (N, C, H, W) of the model's depth

    def x0(self, model: Model, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """Return images as x_0: float32, on the device of the model."""
        return model.x0_of(torch.tensor(self.images[rows])).to(model.device)


def read_inputs(request: Request, path: Path) -> InputImages:
    """Read an image file, or those of a folder, at the model's size and channels.

    Raises FolderNotEmpty if the folder of the results is not empty, and DataError for an unreadable
    file.
    """
    require_empty_folder(request.folder)
    files = image_files(path)
    how = request.model.spec.model_dump(include={"size", "channels", "fit", "background", "white"})
    how["levels"] = request.model.spec.levels
    images = np.stack([read_image(file, **how) for file in files.values()])
    return InputImages(list(files.values()), list(files), images)


def inpaint_to_folder(
    request: Request,
    image: Path,
    mask: Path,
    seeds: Sequence[int],
    *,
    resample: int = 10,
    jump: int = 5,
) -> list[Path]:
    """Inpaint the white area of a mask, once per image and seed: NAME-SEED.png.

    `diffusion.inpaint` takes ancestral steps, and runs each piece of `jump` steps `resample` times.
    All other pixels of the image, at the model's size, are preserved exactly. The noise is a
    function of (seed, t, round); in the first round it is that of `Model.sample`.

    request: its sampler must be ddpm. image: a file or a folder. mask: a file for all images, or a
    folder with a mask of the same name for each image; see `read_mask`.
    Returns the PNGs and a comparison. Raises ValueError before anything is written.
    """
    model, config = request.model, request.config
    _require_sampler(config, "inpainting", "ddpm")
    inputs = read_inputs(request, image)
    masks = _read_masks(model, mask, inputs)
    schedule = model.denoiser.schedule

    def edit(x0: Tensor, seeds: list[int], rows: list[int]) -> Tensor:
        def noise(t: int, *key: Key) -> Tensor:
            return on_device(model.noise(seeds, t, *key), model.device)

        labels = request.conditioning.rows([0] * len(seeds))
        steps = inpaint(
            model.guided_denoiser(config, len(seeds), **labels),
            schedule,
            noise(0),
            visited_timesteps(config, schedule),
            image=x0,
            known=torch.from_numpy(~masks[rows])[:, None].to(model.device),
            noise=noise,
            resample=resample,
            jump=jump,
            **config.sampler.options,
        )
        return last_x(watched(steps, seeds))

    settings = {"edit": "inpaint", "steps": config.steps, "resample": resample, "jump": jump}
    title = f"inpainted in {config.steps} steps, each piece of {jump} run {resample} ×"
    return _edit_to_folder(request, inputs, seeds, edit, settings, title, masks)


def vary_to_folder(
    request: Request, image: Path, seeds: Sequence[int], *, strength: float = 0.6
) -> list[Path]:
    """Write a variation of each input image for each seed: NAME-SEED.png.

    SDEdit (Meng et al. 2022, arXiv:2108.01073): x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε at t = strength·T,
    rounded, then the sampler's steps to the timesteps below t. Strength 0 returns the image at the
    model's size; 1 ignores it, and is plain sampling.

    Other arguments, results and errors as in `inpaint_to_folder`.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"strength = {strength:g} is out of range. Use 0 (keep the image) to 1 (ignore it)."
        )
    model, config = request.model, request.config
    schedule = model.denoiser.schedule
    t = round(strength * schedule.T)

    def edit(x0: Tensor, seeds: list[int], rows: list[int]) -> Tensor:
        if t == 0:
            return x0
        origin = None
        if t < schedule.T:  # at T it is the noise of plain sampling, without √ᾱ_T x_0
            origin = (t, schedule.add_noise(x0, model.start(seeds).to(x0.device), t))
        labels = request.conditioning.rows([0] * len(seeds))
        return last_x(model.denoise(seeds, config, origin=origin, **labels))

    settings = {"edit": "vary", "strength": f"{strength:g}"}
    settings |= {"sampler": config.sampler.name, "steps": config.steps}
    title = f"noised to t = {t} of {schedule.T} (strength {strength:g}), then denoised"
    return _edit_to_folder(request, read_inputs(request, image), seeds, edit, settings, title)


def _read_masks(model: Model, path: Path, inputs: InputImages) -> np.ndarray:
    """Return the white area of each mask, which is inpainted: bool (N, H, W)."""
    masks = image_files(path)
    if not path.is_dir():
        masks = dict.fromkeys(inputs.names, *masks.values())
    if missing := [name for name in inputs.names if name not in masks]:
        raise DataError(
            f"{path} has no mask for {missing[0]} ({len(missing)} of {len(inputs.names)} "
            "images). Give each mask the name of its image, or give one file for all."
        )
    how = {"size": model.spec.size, "fit": model.spec.fit}
    files = zip(inputs.names, inputs.files, strict=True)
    return np.stack([read_mask(masks[name], image=file, **how) for name, file in files])


def _edit_to_folder(
    request: Request,
    inputs: InputImages,
    seeds: Sequence[int],
    edit: Edit,
    settings: Mapping[str, object],
    title: str,
    masks: np.ndarray | None = None,
) -> list[Path]:
    """Edit each image with each seed: NAME-SEED.png, and comparison.png beside them.

    The comparison shows inputs, masks and results. settings: for the metadata. masks: bool
    (N, H, W).
    """
    require_unique_seeds(seeds)
    jobs = [(i, seed) for i in range(len(inputs.names)) for seed in seeds]

    def edited() -> Iterator[Tensor]:
        for start in range(0, len(jobs), request.batch_size):
            part = jobs[start : start + request.batch_size]
            rows, of_rows = map(list, zip(*part, strict=True))
            yield edit(inputs.x0(request.model, rows), of_rows, rows)

    names = [f"{inputs.names[i]}-{seed:06d}" for i, seed in jobs]
    shared = {key: str(value) for key, value in settings.items()} | {"software": "fromnoise"}
    metadata = [{**shared, "image": inputs.names[i], "seed": str(seed)} for i, seed in jobs]
    pngs, results = request.write(edited(), names, metadata)
    if not request.model.spec.png_holds_all:
        pngs.append(save_npz(results, request.folder))
    rows, results = [], request.model.spec.levels.to_bytes(results)
    captions = [f"seed {seed}" for seed in seeds[:SHOWN_COLUMNS]]
    given = request.model.spec.levels.to_bytes(inputs.images)
    for i, name in enumerate(inputs.names[:SHOWN_ROWS]):
        row = [(name, given[i])]
        if masks is not None:
            row.append(("kept", np.where(masks[i], MASKED, given[i])))
        rows.append(row + list(zip(captions, results[i * len(seeds) :], strict=False)))
    return [*pngs, request.compare(rows, title)]


# ---- between two images -------------------------------------------------------------------------


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
    the two, and DDIM denoises the result (Song et al. 2021, section 5.3). At λ = 0 and 1 the
    results are the images, up to the error of the steps. With a strength in (0, 1] both images get
    the same noise at t = strength·T, are mixed there and denoised (Ho et al. 2020, section 4.3). A
    small strength blends the images; with a large one the model invents images between them. seed:
    of that noise.

    request: without strength, its settings must be resolved with `DETERMINISTIC`. a, b: two files,
    or two folders with the same number of images, paired in order.

    Raises ValueError for an unreadable image or a value out of range, before anything is written.
    """
    model, config, schedule = request.model, request.config, request.model.denoiser.schedule
    fractions, times = _fractions(frames), visited_timesteps(config, schedule)
    if strength is None:
        _require_sampler(config, "inversion", "ddim", eta=0.0)
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
            f"{a} has {len(first.names)} images, but {b} has {len(last.names)}. They are paired in "
            "order. Give the same number of each."
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
    levels = request.model.spec.levels
    ends = levels.to_bytes(first.images), levels.to_bytes(last.images)
    return _denoise_to_folder(request, starts, t, seed, pairs, fractions, f"{what}, {how}", ends)


def interpolate_seeds_to_folder(
    request: Request, seeds: Sequence[int], *, frames: int = 8
) -> list[Path]:
    """Write images that DDIM samples from noise between that of each seed and of the next.

    x_T = slerp(x_T of a seed, x_T of the next, λ); at λ = 0 and 1 the images are those of
    `Model.sample` with DDIM. Files, settings and errors are those of `interpolate_to_folder`.
    Raises ValueError for fewer than two seeds, too.
    """
    if len(seeds) < 2:
        raise ConfigError(f"seeds = {seeds} are too few. Give at least 2, as in 3,8.")
    model, fractions = request.model, _fractions(frames)
    _require_sampler(request.config, "interpolation between seeds", "ddim", eta=0.0)
    require_empty_folder(request.folder)
    starts = (_slerps(model.start(pair), fractions) for pair in pairwise(seeds))
    t = visited_timesteps(request.config, model.denoiser.schedule)[0]
    pairs = [(f"{a:06d}", f"{b:06d}") for a, b in pairwise(seeds)]
    title = f"between the noises of seeds {', '.join(map(str, seeds[: SHOWN_ROWS + 1]))}"
    return _denoise_to_folder(request, starts, t, seeds[0], pairs, fractions, title)


def _require_sampler(config: SamplingConfig, what: str, name: str, **options: float) -> None:
    """Raise ConfigError unless the sampler and its options are those that an edit needs."""
    for key, value in {"sampler": name, **options}.items():
        own = config.sampler.name if key == "sampler" else config.sampler.options[key]
        if own != value:
            raise ConfigError(f"{key} = {own} cannot be used for {what}. Use {key}={value}.")


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

    Writes A-B-000.png, …, comparison.png with a row per pair, and interpolation.gif.
    ends: the input images, (pairs, C, H, W) each; None if `pairs` are seeds.
    """

    def denoised() -> Iterator[Tensor]:
        for part in (part for x_t in starts for part in x_t.split(request.batch_size)):
            # the sampler's own noise is shared too, so that frames differ by λ alone
            seeds, labels = [seed] * len(part), request.conditioning.rows([0] * len(part))
            yield last_x(request.model.denoise(seeds, request.config, origin=(t, part), **labels))

    names = [f"{a}-{b}-{i:03d}" for a, b in pairs for i in range(len(fractions))]
    pngs, images = request.write(denoised(), names, [{}] * len(names))
    shown = request.model.spec.levels.to_bytes(images)
    results = shown.reshape(len(pairs), len(fractions), *images.shape[1:])
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
    whole = request.model.spec.png_holds_all
    arrays = [] if whole else [save_npz(images, request.folder)]  # the folder was empty
    return [*pngs, request.compare(rows, title), animation, *arrays]
