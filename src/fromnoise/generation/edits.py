"""Edit images: inpaint the white area of a mask (RePaint), or vary them (SDEdit)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import require_empty_folder
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError, image_files, read_image, read_mask
from fromnoise.diffusion import inpaint
from fromnoise.generation.request import Request
from fromnoise.model.model import Model, from_uint8, last_x, watched
from fromnoise.model.sampling import visited_timesteps
from fromnoise.rng import Key, require_unique_seeds

SHOWN_ROWS, SHOWN_COLUMNS = 8, 10  # images of a comparison, and results of each
MASKED = np.uint8(128)  # grey
Edit = Callable[[Tensor, list[int], list[int]], Tensor]  # x_0, seeds, indices of images → x_0


class InputImages(NamedTuple):
    """Images at the model's size and channels."""

    files: list[Path]
    names: list[str]
    images: np.ndarray  # uint8 (N, C, H, W)

    def x0(self, model: Model, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """Return images as x_0: float32, on the device of the model."""
        return from_uint8(torch.tensor(self.images[rows]), model.spec.data_range).to(model.device)


def read_inputs(request: Request, path: Path) -> InputImages:
    """Read an image file, or those of a folder, at the model's size and channels.

    Raises FolderNotEmpty for the folder of the results, and DataError for an unreadable file.
    """
    require_empty_folder(request.folder)
    files = image_files(path)
    how = request.model.spec.model_dump(include={"size", "channels", "fit", "background"})
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

    By `diffusion.inpaint`: ancestral steps, each piece of `jump` of them repeated `resample` times.
    All other pixels of the image, at the model's size, are preserved exactly. The noise is a
    function of (seed, t, round); in the first round it is that of `Model.sample`.

    request: its sampler is ddpm. image: a file or a folder. mask: a file for all images, or a
    folder with a mask named as each image; see `read_mask`.
    Returns the PNGs and a comparison. Raises ValueError before anything is written.
    """
    model, config = request.model, request.config
    inputs = read_inputs(request, image)
    masks = _read_masks(model, mask, inputs)
    schedule = model.denoiser.schedule

    def edit(x0: Tensor, seeds: list[int], rows: list[int]) -> Tensor:
        def noise(t: int, *key: Key) -> Tensor:
            return model.noise(seeds, t, *key).to(model.device)

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
    title = f"inpainted in {config.steps} steps, each piece of {jump} repeated {resample} ×"
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
            f"strength = {strength:g} is out of range. Use 0 (the image) to 1 (none of it)."
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
            "images). Name each mask as its image, or give one file for all."
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

    settings: for the metadata. masks: bool (N, H, W), for the comparison, which shows inputs and
    results.
    """
    require_unique_seeds(seeds)
    jobs = [(i, seed) for i in range(len(inputs.names)) for seed in seeds]

    def edited() -> Iterator[Tensor]:
        for start in range(0, len(jobs), request.batch_size):
            part = jobs[start : start + request.batch_size]
            rows, of_rows = map(list, zip(*part, strict=True))
            yield edit(inputs.x0(request.model, rows), of_rows, rows)

    names = [f"{inputs.names[i]}-{seed:06d}" for i, seed in jobs]
    said = {key: str(value) for key, value in settings.items()} | {"software": "fromnoise"}
    metadata = [{**said, "image": inputs.names[i], "seed": str(seed)} for i, seed in jobs]
    pngs, results = request.write(edited(), names, metadata)
    rows = []
    captions = [f"seed {seed}" for seed in seeds[:SHOWN_COLUMNS]]
    for i, name in enumerate(inputs.names[:SHOWN_ROWS]):
        row = [(name, inputs.images[i])]
        if masks is not None:
            row.append(("kept", np.where(masks[i], MASKED, inputs.images[i])))
        rows.append(row + list(zip(captions, results[i * len(seeds) :], strict=False)))
    return [*pngs, request.compare(rows, title)]
