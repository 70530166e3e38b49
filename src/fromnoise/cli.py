"""The command line: `fromnoise`, or `python -m fromnoise`. Every command is one call elsewhere."""

import logging
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
import yaml
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Column, Table

from fromnoise import asking, checkpoints, config, sampling, training
from fromnoise.data import check_data, read_conditions, write_shapes
from fromnoise.editing import interpolate_to_folder
from fromnoise.interop import FORMATS, import_model
from fromnoise.model import load
from fromnoise.progress import console, counting

logger = logging.getLogger("fromnoise")
app = typer.Typer(
    help="Denoising diffusion models on your own images: train, resume, sample.",
    epilog="Any command takes --debug, which shows the whole traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Look at images before training on them.", no_args_is_help=True)
edit_app = typer.Typer(help="Make new images from given ones.", no_args_is_help=True)
recipes_app = typer.Typer(help="The recipes that come with the package.")
app.add_typer(data_app, name="data")
app.add_typer(edit_app, name="edit")
app.add_typer(recipes_app, name="recipes")

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. training.steps=500")
]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")],
    overrides: Overrides = None,
    data: Annotated[
        Path | None, typer.Option(help="a folder, zip, npz or IDX file to train on instead")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the run folder [default: runs/RECIPE]")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="broken files are an error")] = False,
) -> None:
    """Train a recipe into a new run folder."""
    changes = dict(map(config.parse_override, overrides or []))
    if strict:
        changes["data.strict"] = True
    training.train(recipe, out=out, data=data, overrides=changes)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="a run folder")], overrides: Overrides = None
) -> None:
    """Continue a run exactly where it stopped; training.steps=N makes it longer."""
    training.resume(run, overrides=dict(map(config.parse_override, overrides or [])))


@app.command()
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


@app.command()
def progress(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    epochs: Annotated[
        str | None, typer.Option(help="as in 0,50,100,150,199 [default: five, evenly spread]")
    ] = None,
) -> None:
    """Draw what the same noise became at several moments of the training, side by side."""
    chosen = asking.parse_epochs(epochs) if epochs is not None else None
    print(training.progress_figure(run, epochs=chosen).absolute())


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="a checkpoint of another program")],
    out: Annotated[Path, typer.Option(help="a new folder for the model")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="what the file does not say: size=64"),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(FORMATS)} [default: found out]")
    ] = None,
) -> None:
    """Turn another program's weights into a model to sample from, or to start a training from."""
    changes = dict(map(config.parse_override, overrides or []))
    spec, notes = import_model(file, out, format=format, overrides=changes)
    shown = {"network", "diffusion", "sampling", "size", "data_range", "label_names"}
    settings = spec.model_dump(mode="json", include=shown)
    betas = settings["diffusion"]["schedule"].get("betas", [])
    if betas:
        settings["diffusion"]["schedule"]["betas"] = (
            f"{len(betas)} from {betas[0]:.3g} to {betas[-1]:.3g}"
        )
    print(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None), end="")
    for note in notes:
        print(f"unless you said otherwise: {note}")
    print(f"{spec.source}; to sample from it: fromnoise sample {out.absolute()}")


@edit_app.command("interpolate")
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


@data_app.command("shapes")
def data_shapes(
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    train: Annotated[int, typer.Option(min=1, help="images")] = 18009,
    test: Annotated[int, typer.Option(min=1, help="conditions in each of the two tests")] = 32,
    size: Annotated[int, typer.Option(min=16, help="pixels a side")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Render a synthetic set of coloured cubes, spheres and cylinders, laid out as i-CLEVR is."""
    with counting("rendering") as progress:
        write_shapes(folder, train=train, test=test, size=size, seed=seed, progress=progress)
    print(folder.absolute())


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="a folder, zip, npz, npy or IDX file")],
    source: Annotated[str | None, typer.Option(help="read it as this source")] = None,
    split: Annotated[Literal["train", "test"], typer.Option(help="where there are two")] = "train",
) -> None:
    """Count, measure and read every image; name broken files and fitting recipe lines."""
    with counting("reading") as progress:
        report = check_data(path, source=source, split=split, progress=progress)
    print(report)


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the shipped recipes with what they were measured to take and reach."""
    if context.invoked_subcommand is not None:
        return
    table = Table(Column("recipe", no_wrap=True), "what", "time", "score")
    for name in config.shipped_recipes():
        head = config.recipe_head(name)
        table.add_row(name, head["about"], head["time"], head["score"])
    Console().print(table)


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print one recipe, to read or to start one's own from."""
    print(config.recipe_text(name), end="")


def main() -> None:
    """Run the command line; an error is one line and exit code 2, or 1 if the machine gave up."""
    if sys.argv[1:] == ["--version"]:
        print(f"fromnoise {version('fromnoise')}")
        return
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(
        format="%(message)s",
        level=logging.INFO,
        handlers=[RichHandler(console=console, show_time=False, show_path=False)]
        if sys.stderr.isatty()
        else None,
    )
    try:
        app(arguments)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        line = error_line(error)
        if debug or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)


def error_line(error: Exception) -> str | None:
    """What to tell a tired person, or None for a bug of ours."""
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or "allocate memory" in str(error) or "out of memory" in str(error):
        return (
            "there is not enough memory; training.accumulation=2 (or more) computes the same "
            "batch in smaller parts, and sampling has --batch-size"
        )
    if isinstance(error, checkpoints.DiskFull):
        return str(error.strerror)
    known = (ValueError, OSError, training.Diverged, checkpoints.NotFinite)
    if not isinstance(error, known):
        return None
    return re.sub(r"\s*\n\s*", " ", str(error))
