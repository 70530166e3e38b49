"""`fromnoise edit inpaint`, `vary` and `interpolate`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fromnoise import generation as editing
from fromnoise.cli import options
from fromnoise.cli import parsing as asking
from fromnoise.config.errors import ConfigError
from fromnoise.model.model import Model, load
from fromnoise.progress import progress_bar

logger = logging.getLogger("fromnoise")

ModelPath = Annotated[Path, typer.Argument(help="a run, a checkpoint or a .safetensors file")]
Image = Annotated[Path, typer.Option(help="an image, or a folder of images")]
Out = Annotated[Path, typer.Option(help="a new folder for the images")]
WholeWay = Annotated[int | None, typer.Option(help="of the whole way from T to 0")]
Seeds = Annotated[str | None, typer.Option(help="as in 0-3 or 0,5: one result each for an image")]
SEEDS_UP_TO = "seeds 0 to NUM-1"
One = Annotated[int | None, typer.Option(min=1, help=SEEDS_UP_TO, show_default="1")]
Eight = Annotated[int | None, typer.Option(min=1, help=SEEDS_UP_TO, show_default="8")]
Class = Annotated[
    str | None, typer.Option("--class", help="this label, or these with commas, and no other")
]
Labels = Annotated[str | None, typer.Option(help='as in "red cube, -blue sphere"')]
Guidance = Annotated[float | None, typer.Option(help="s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off")]


def edit_inpaint(
    model: ModelPath,
    image: Image,
    mask: Annotated[
        Path,
        typer.Option(
            help="white is made anew, black stays; of the image's size; a folder: one of each name"
        ),
    ],
    out: Out,
    num: One = None,
    seeds: Seeds = None,
    resample: Annotated[int, typer.Option(help="times that each piece is walked; 1: once")] = 10,
    jump: Annotated[int, typer.Option(help="steps of such a piece")] = 5,
    steps: WholeWay = None,
    class_: Class = None,
    labels: Labels = None,
    guidance: Guidance = None,
    timesteps: options.Timesteps = None,
    clamp: options.Clamp = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
) -> None:
    """Make a part of an image anew, the rest unchanged (RePaint, Lugmayr et al. 2022)."""
    loaded = load(model, weights=weights, device=device)
    how = asking.how_to_sample(steps=steps, timesteps=timesteps, clamp=clamp, guidance=guidance)
    cond = _asked(loaded, class_, labels, how)
    with progress_bar("images") as progress:
        files = editing.inpaint_to_folder(
            loaded,
            image,
            mask,
            out,
            seeds=_seeds(seeds, num, usual=1),
            resample=resample,
            jump=jump,
            cond=cond,
            batch_size=batch_size,
            progress=progress,
            **how,
        )
    _tell(files)


def edit_vary(
    model: ModelPath,
    image: Image,
    out: Out,
    strength: Annotated[float, typer.Option(help="0 is the image itself, 1 forgets it")] = 0.6,
    num: Eight = None,
    seeds: Seeds = None,
    sampler: options.Sampler = None,
    steps: WholeWay = None,
    class_: Class = None,
    labels: Labels = None,
    guidance: Guidance = None,
    timesteps: options.Timesteps = None,
    clamp: options.Clamp = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
) -> None:
    """Make images like one, through the noise and back (SDEdit, Meng et al. 2022)."""
    loaded = load(model, weights=weights, device=device)
    how = asking.how_to_sample(
        sampler=sampler, steps=steps, timesteps=timesteps, clamp=clamp, guidance=guidance
    )
    cond = _asked(loaded, class_, labels, how)
    with progress_bar("images") as progress:
        files = editing.vary_to_folder(
            loaded,
            image,
            out,
            seeds=_seeds(seeds, num, usual=8),
            strength=strength,
            cond=cond,
            batch_size=batch_size,
            progress=progress,
            **how,
        )
    _tell(files)


def edit_interpolate(
    model: ModelPath,
    out: Out,
    a: Annotated[Path | None, typer.Option(help="the first image, or a folder")] = None,
    b: Annotated[Path | None, typer.Option(help="the last image, or a folder of as many")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="as in 3,8: between their images, instead of --a and --b")
    ] = None,
    frames: Annotated[int, typer.Option(help="images from a to b, both among them")] = 8,
    strength: Annotated[
        float | None,
        typer.Option(
            help="mix both under this much noise instead; 1 forgets them (Ho et al. 2020)",
            show_default="by DDIM inversion",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of the noise of --strength", show_default="0")
    ] = None,
    steps: WholeWay = None,
    class_: Class = None,
    labels: Labels = None,
    guidance: Guidance = None,
    timesteps: options.Timesteps = None,
    clamp: options.Clamp = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
) -> None:
    """Go from one image to another: to the noise of each (DDIM), and back from between them."""
    if (a is None or b is None) == (seeds is None) or (seeds is not None and (a or b)):
        raise ConfigError("give --a and --b, two images, or --seeds as in 3,8, not both")
    if seeds is not None and strength is not None:
        raise ConfigError("--strength is of images, --a and --b; leave it out with --seeds")
    if seed is not None and strength is None:
        raise ConfigError("--seed has no effect without the noise of --strength; leave it out")
    loaded = load(model, weights=weights, device=device)
    how = asking.how_to_sample(steps=steps, timesteps=timesteps, clamp=clamp, guidance=guidance)
    cond = _asked(loaded, class_, labels, how)
    how |= {"frames": frames, "cond": cond, "batch_size": batch_size}
    with progress_bar("images") as progress:
        if seeds is not None:
            files = editing.interpolate_seeds_to_folder(
                loaded, asking.parse_seeds(seeds), out, progress=progress, **how
            )
        else:
            assert a is not None
            assert b is not None
            files = editing.interpolate_to_folder(
                loaded, a, b, out, strength=strength, seed=seed or 0, progress=progress, **how
            )
    _tell(files)


def _seeds(seeds: str | None, num: int | None, *, usual: int) -> list[int]:
    if seeds is not None and num is not None:
        raise ConfigError("--seeds and --num exclude each other; give one")
    return asking.parse_seeds(seeds) if seeds is not None else list(range(num or usual))


def _asked(
    model: Model, class_: str | None, labels: str | None, how: Mapping[str, Any]
) -> np.ndarray | None:
    """The labels that all images shall have, int8 (K,)."""
    names, dropout = model.spec.label_names, model.spec.label_dropout
    cond, _ = asking.conditions(names, 1, class_=class_, labels=labels)
    if cond is None:
        return None
    plan = model.sampling_plan(**how)
    for line in asking.remarks(names, plan, cond, None, label_dropout=dropout):
        logger.info(line)
    return cond[0]


def _tell(files: list[Path]) -> None:
    for file in files:
        print(file.absolute())
