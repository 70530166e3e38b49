"""`fromnoise sample` and `edit interpolate`."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from fromnoise import asking, config, sampling
from fromnoise.data import read_conditions
from fromnoise.editing import interpolate_to_folder
from fromnoise.model import load
from fromnoise.progress import counting

logger = logging.getLogger("fromnoise")


def sample(
    model: Annotated[Path, typer.Argument(help="a run, a checkpoint or a .safetensors file")],
    seeds: Annotated[str | None, typer.Option(help="as in 0-63 or 0,5,7-9; one image each")] = None,
    num: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="seeds 0 to NUM-1 [default: 64, or one for each condition]",
        ),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim or ddpm")] = None,
    steps: Annotated[int | None, typer.Option(help="network evaluations per image")] = None,
    eta: Annotated[float | None, typer.Option(help="of ddim: 0 deterministic, 1 as ddpm")] = None,
    variance: Annotated[str | None, typer.Option(help="of ddpm: small, large or learned")] = None,
    spacing: Annotated[str | None, typer.Option(help="leading, trailing or linspace")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="this label, or these with commas, and no other")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='as in "red cube, -blue sphere": present, absent; the rest open'),
    ] = None,
    compose: Annotated[
        str | None,
        typer.Option(help='a weight w for each label, as in "red cube=3, blue sphere=-1"'),
    ] = None,
    cycle_classes: Annotated[
        bool, typer.Option("--cycle-classes", help="each label alone, one after the other")
    ] = False,
    conditions: Annotated[
        Path | None, typer.Option(help="a JSON list of lists of labels, as test.json of i-CLEVR")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off")
    ] = None,
    guidance_interval: Annotated[
        str | None, typer.Option(help="the t that are guided, as in 200-800 [default: all]")
    ] = None,
    guidance_rescale: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="φ: how far contrast goes back to that of s = 1"),
    ] = None,
    clamp: Annotated[
        Literal["yes", "no", "dynamic"] | None,
        typer.Option(help="the predicted x_0 to the range of images, or to a percentile of it"),
    ] = None,
    weights: Annotated[
        Literal["ema", "raw"] | None, typer.Option(help="averaged (the default), or as trained")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images at a time")] = 64,
    grid: Annotated[bool, typer.Option(help="a picture of the first 64")] = True,
    columns: Annotated[int | None, typer.Option(min=1, help="images in a row of the grid")] = None,
    npz: Annotated[bool, typer.Option("--npz", help="all images as samples_NxHxWxC.npz")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="the denoising as an animation")] = False,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="x_t and the predicted x_0 at ten times")
    ] = False,
    times: Annotated[
        str | None,
        typer.Option(help="of the trajectory, as in 999,700,0: the nearest that are visited"),
    ] = None,
    strips: Annotated[
        int | None, typer.Option(min=1, help="images in the trajectory [default: 4]")
    ] = None,
    each_step: Annotated[
        bool, typer.Option("--each-step", help="a grid of x_t and of the predicted x_0 at every t")
    ] = False,
    noise: Annotated[
        bool, typer.Option("--noise", help="the starting noise beside what became of it")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="[default: samples/ in the run]")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "auto",
) -> None:
    """Make images: a PNG per seed and a grid. No option is ever needed."""
    loaded = load(model, weights=weights, device=device)
    if seeds is not None and num is not None:
        raise config.ConfigError("--seeds and --num exclude each other; give one")
    names = loaded.spec.label_names
    weights_of = asking.composition(names, compose)
    if num is None and conditions is not None and names:
        num = len(read_conditions(conditions, names))
    if num is None and cycle_classes and names:
        num = max(64 // len(names), 1) * len(names)  # whole rounds
    chosen = asking.parse_seeds(seeds) if seeds is not None else list(range(num or 64))
    cond = asking.conditions(
        names,
        len(chosen),
        class_=class_,
        labels=labels,
        cycle_classes=cycle_classes,
        file=conditions,
    )
    if cond is not None and weights_of is not None:
        raise config.ConfigError(
            "--compose says all that is asked for; leave out --class, --labels, --cycle-classes "
            "and --conditions"
        )
    how = {"sampler": sampler, "steps": steps, "spacing": spacing, "eta": eta, "variance": variance}
    how |= {"guidance": guidance, "guidance_rescale": guidance_rescale}
    how |= {"clamp": {"yes": True, "no": False, "dynamic": "dynamic", None: None}[clamp]}
    if guidance_interval is not None:
        how["guidance_interval"] = asking.parse_interval(guidance_interval)
    how = {key: value for key, value in how.items() if value is not None}
    if names and cond is None and weights_of is None:
        logger.info(
            "no label is asked for (--class, --labels, --compose, --cycle-classes, --conditions): "
            "the images are of any kind"
        )
    elif names and (line := asking.formula(loaded.sampling_plan(**how), weights_of)):
        logger.info(line)
    out = out or sampling.default_folder(loaded, model, cond=cond, compose=weights_of, **how)
    with counting("images") as progress:
        files = sampling.sample_to_folder(
            loaded,
            chosen,
            out,
            cond=cond,
            compose=weights_of,
            batch_size=batch_size,
            grid=grid,
            columns=columns,
            npz=npz,
            gif=gif,
            trajectory=trajectory or times is not None or strips is not None,
            times=asking.parse_times(times) if times is not None else None,
            strips=strips or 4,
            each_step=each_step,
            noise=noise,
            progress=progress,
            **how,
        )
    print(f"{len(chosen)} images in {out.absolute()}")
    for file in files[len(chosen) :]:
        if file.parent == out:
            print(file.absolute())
    if each_step:
        print((out / "steps").absolute())


def edit_interpolate(
    model: Annotated[Path, typer.Argument(help="a run, a checkpoint or a .safetensors file")],
    a: Annotated[Path, typer.Option(help="the first image")],
    b: Annotated[Path, typer.Option(help="the last image")],
    out: Annotated[Path, typer.Option(help="a folder for the images")],
    frames: Annotated[int, typer.Option(min=2, help="images from a to b, both among them")] = 8,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="how far into the noise; 1 forgets both images")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="of the noise that both images get")] = 0,
    steps: Annotated[int | None, typer.Option(help="of the whole way from T to 0")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "auto",
) -> None:
    """Go from one image to another through the noise (Ho et al. 2020, section 4.3)."""
    loaded = load(model, device=device)
    how = {} if steps is None else {"steps": steps}
    for file in interpolate_to_folder(
        loaded, a, b, out, frames=frames, strength=strength, seed=seed, **how
    ):
        print(file.absolute())
