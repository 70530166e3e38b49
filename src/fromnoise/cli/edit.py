"""`fromnoise edit inpaint`, `vary` and `interpolate`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from fromnoise.cli import options
from fromnoise.config.errors import ConfigError

if TYPE_CHECKING:
    from fromnoise.generation.request import Request

edit = Typer(name="edit", help="Edit images: inpaint, vary, interpolate.", no_args_is_help=True)
logger = logging.getLogger("fromnoise")

Image = Annotated[Path, Option(help="an image, or a folder of images")]
Out = Annotated[Path, Option(help="a new folder for the images")]
Seeds = Annotated[str | None, Option(help="as in 0-3 or 0,5: one result per image and seed")]
SEEDS_UP_TO = "seeds 0 to NUM-1"
One = Annotated[int | None, Option(min=1, help=SEEDS_UP_TO, show_default="1")]
Eight = Annotated[int | None, Option(min=1, help=SEEDS_UP_TO, show_default="8")]


@edit.command("inpaint")
def edit_inpaint(
    model: options.ModelPath,
    image: Image,
    mask: Annotated[
        Path,
        Option(
            help="white is inpainted, black is kept; of the image's size; or a folder of masks, "
            "each with the name of its image"
        ),
    ],
    out: Out,
    settings: options.SamplingKeys = None,
    num: One = None,
    seeds: Seeds = None,
    resample: Annotated[int, Option(min=1, help="number of runs of each piece of steps")] = 10,
    jump: Annotated[int, Option(min=1, help="steps in a piece")] = 5,
    steps: options.Steps = None,
    class_: options.Class = None,
    labels: options.Labels = None,
    guidance: options.Guidance = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
) -> None:
    """Inpaint the white area of a mask; all other pixels are preserved exactly (RePaint)."""
    from fromnoise.generation.edits import inpaint_to_folder

    overrides = options.parse_sampling(
        settings, {"sampler": "ddpm"}, steps=steps, guidance=guidance
    )
    request = _request(model, out, overrides, class_, labels, weights, batch_size, device)
    chosen = options.parse_seeds_or_count(seeds, num) or [0]
    _print(inpaint_to_folder(request, image, mask, chosen, resample=resample, jump=jump))


@edit.command("vary")
def edit_vary(
    model: options.ModelPath,
    image: Image,
    out: Out,
    settings: options.SamplingKeys = None,
    strength: Annotated[float, Option(help="0 keeps the image, 1 ignores it")] = 0.6,
    num: Eight = None,
    seeds: Seeds = None,
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    class_: options.Class = None,
    labels: options.Labels = None,
    guidance: options.Guidance = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
) -> None:
    """Make variations of an image: add noise to it, then denoise it (SDEdit)."""
    from fromnoise.generation.edits import vary_to_folder

    overrides = options.parse_sampling(settings, steps=steps, sampler=sampler, guidance=guidance)
    request = _request(model, out, overrides, class_, labels, weights, batch_size, device)
    chosen = options.parse_seeds_or_count(seeds, num) or range(8)
    _print(vary_to_folder(request, image, chosen, strength=strength))


@edit.command("interpolate")
def edit_interpolate(
    model: options.ModelPath,
    out: Out,
    settings: options.SamplingKeys = None,
    a: Annotated[Path | None, Option(help="the first image, or a folder")] = None,
    b: Annotated[Path | None, Option(help="the last image, or a folder")] = None,
    seeds: Annotated[
        str | None, Option(help="as in 3,8: between images of seeds, instead of --a and --b")
    ] = None,
    frames: Annotated[int, Option(help="number of images, the first and the last included")] = 8,
    strength: Annotated[
        float | None,
        Option(
            help="mix both images at this noise level, above 0 up to 1 (Ho et al. 2020)",
            show_default="DDIM inversion",
        ),
    ] = None,
    seed: Annotated[
        int | None, Option(min=0, help="seed of the noise of --strength", show_default="0")
    ] = None,
    steps: options.Steps = None,
    class_: options.Class = None,
    labels: options.Labels = None,
    guidance: options.Guidance = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
) -> None:
    """Interpolate between two images, or between seeds, in the space of the noise (DDIM)."""
    from fromnoise.generation import edits

    if (a is None or b is None) == (seeds is None) or (seeds is not None and (a or b)):
        raise ConfigError("the ends are missing or set twice. Give --a and --b, or --seeds 3,8.")
    if seeds is not None and strength is not None:
        raise ConfigError("--strength has no effect with --seeds. Remove it.")
    if seed is not None and strength is None:
        raise ConfigError("--seed has no effect without --strength. Remove it.")
    fixed = edits.DETERMINISTIC if strength is None else {}
    overrides = options.parse_sampling(settings, fixed, steps=steps, guidance=guidance)
    request = _request(model, out, overrides, class_, labels, weights, batch_size, device)
    if a is None or b is None:
        between = options.parse_seeds(seeds or "")
        files = edits.interpolate_seeds_to_folder(request, between, frames=frames)
    else:
        how: dict[str, Any] = {"frames": frames, "strength": strength, "seed": seed or 0}
        files = edits.interpolate_to_folder(request, a, b, **how)
    _print(files)


def _request(
    path: Path,
    out: Path,
    overrides: dict[str, Any],
    class_: str | None,
    labels: str | None,
    weights: options.Weights,
    batch_size: int,
    device: str,
) -> "Request":
    """Load the model and resolve its sampling settings, with the labels of all images."""
    from fromnoise.generation.request import Request, guidance_notes, read_conditioning
    from fromnoise.model import load

    model = load(path, weights=weights, device=device)
    conditioning = read_conditioning(model.spec.label_names, 1, class_=class_, labels=labels)
    labelled = conditioning.cond is not None
    config = model.sampling_config(conditional=labelled, **overrides)
    for line in guidance_notes(model.spec, config, conditioning) if labelled else ():
        logger.info(line)
    return Request(model, config, out, conditioning, batch_size)


def _print(files: list[Path]) -> None:
    for file in files:
        print(file.absolute())
