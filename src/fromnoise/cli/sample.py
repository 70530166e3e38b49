"""`fromnoise sample`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from fromnoise.cli import options
from fromnoise.cli import parsing as asking
from fromnoise.config.errors import ConfigError
from fromnoise.generation import samples as sampling
from fromnoise.model.model import Autoguidance, load
from fromnoise.progress import progress_bar

logger = logging.getLogger("fromnoise")


def sample(
    model: Annotated[Path, typer.Argument(help="a run, a checkpoint or a .safetensors file")],
    seeds: Annotated[str | None, typer.Option(help="as in 0-63 or 0,5,7-9; one image each")] = None,
    num: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="seeds 0 to NUM-1",
            show_default="64, or one for each condition",
        ),
    ] = None,
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    eta: options.Eta = None,
    variance: options.Variance = None,
    timesteps: options.Timesteps = None,
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
        Path | None,
        typer.Option(help="a JSON list of lists of labels, as test.json of i-CLEVR, or of texts"),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off")
    ] = None,
    guidance_interval: options.GuidanceInterval = None,
    guidance_rescale: options.GuidanceRescale = None,
    autoguidance: Annotated[
        Path | None,
        typer.Option(help="a weaker model, as an earlier checkpoint, to be led away from"),
    ] = None,
    autoguidance_scale: Annotated[
        float | None,
        typer.Option(min=0, help="s in ε = ε_weak + s·(ε − ε_weak); 1 is off", show_default="2"),
    ] = None,
    clamp: options.Clamp = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
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
        int | None, typer.Option(min=1, help="images in the trajectory", show_default="4")
    ] = None,
    each_step: Annotated[
        bool, typer.Option("--each-step", help="a grid of x_t and of the predicted x_0 at every t")
    ] = False,
    noise: Annotated[
        bool, typer.Option("--noise", help="the starting noise beside what became of it")
    ] = False,
    out: Annotated[Path | None, typer.Option(show_default="samples/ in the run")] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Make images: a PNG per seed and a grid. No option is ever needed."""
    loaded = load(model, weights=weights, device=device, precision=precision)
    if seeds is not None and num is not None:
        raise ConfigError("--seeds and --num exclude each other; give one")
    names = loaded.spec.label_names
    given = asking.parse_seeds(seeds) if seeds is not None else range(num) if num else None
    cond, composition = asking.conditions(
        names,
        None if given is None else len(given),
        class_=class_,
        labels=labels,
        compose=compose,
        cycle_classes=cycle_classes,
        file=conditions,
    )
    if given is None:
        given = range(asking.MANY if cond is None else len(cond))
    how = asking.how_to_sample(
        sampler=sampler,
        steps=steps,
        timesteps=timesteps,
        eta=eta,
        variance=variance,
        guidance=guidance,
        guidance_interval=guidance_interval,
        guidance_rescale=guidance_rescale,
        clamp=clamp,
    )
    auto = None
    if autoguidance is not None:
        scale = 2.0 if autoguidance_scale is None else autoguidance_scale
        auto = Autoguidance(
            load(autoguidance, weights=weights, device=device, precision=precision), scale
        )
        loaded.check_compatible(auto.weak)
        logger.info(asking.autoguidance_formula(scale, auto.weak.spec.step))
    elif autoguidance_scale is not None:
        raise ConfigError(
            "--autoguidance-scale is s in ε = ε_weak + s·(ε − ε_weak); say with --autoguidance "
            "which weaker model makes ε_weak"
        )
    plan, dropout = loaded.sampling_plan(**how), loaded.spec.label_dropout
    for line in asking.remarks(names, plan, cond, composition, label_dropout=dropout):
        logger.info(line)
    # with guidance, the same weights without it are a weaker model
    steered = cond is not None and plan.guidance != 1
    if auto is not None and auto.scale != 1 and not steered and loaded.same_weights(auto.weak):
        logger.warning(
            "autoguidance by %s, which has the very weights of the model, changes nothing and "
            "doubles the cost; give an earlier checkpoint",
            autoguidance,
        )
    out = out or sampling.default_folder(
        loaded, model, cond=cond, compose=composition, autoguidance=auto, **how
    )
    with progress_bar("images") as progress:
        files = sampling.sample_to_folder(
            loaded,
            list(given),
            out,
            cond=cond,
            compose=composition,
            autoguidance=auto,
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
    print(f"{len(given)} images in {out.absolute()}")
    for file in files[len(given) :]:
        if file.parent == out:
            print(file.absolute())
    if each_step:
        print((out / "steps").absolute())
