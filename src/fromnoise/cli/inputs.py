"""`fromnoise recipes`, `data` and `import`."""

from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Column, Table
from typer import Argument, Context, Option, Typer

from fromnoise.cli import options
from fromnoise.progress import progress_bar

recipes = Typer(name="recipes", help="List the recipes of the package.")
data = Typer(
    name="data",
    help="Check images before training, or render a synthetic set.",
    no_args_is_help=True,
)


@recipes.callback(invoke_without_command=True)
def recipes_list(context: Context) -> None:
    """List the shipped recipes, with their measured times and scores."""
    if context.invoked_subcommand is not None:
        return
    from fromnoise.config.recipe import recipe_head, shipped_recipes

    table = Table(Column("recipe", no_wrap=True), "what", "time", "score")
    for name in shipped_recipes():
        head = recipe_head(name)
        table.add_row(name, head["about"], head["time"], head["score"])
    Console().print(table)


@recipes.command("show")
def recipes_show(name: str) -> None:
    """Print a recipe, to read it or to start your own from it."""
    from fromnoise.config.recipe import recipe_text

    print(recipe_text(name), end="")


@data.command("shapes")
def data_shapes(
    folder: Annotated[Path, Argument(help="a new folder")],
    train: Annotated[int, Option(min=1, help="training images")] = 18009,
    test: Annotated[int, Option(min=1, help="conditions in each of the two tests")] = 32,
    size: Annotated[int, Option(min=16, help="pixels per side; shapes-small has 32")] = 64,
    seed: Annotated[int, Option(min=0)] = 0,
) -> None:
    """Render a synthetic set of coloured cubes, spheres and cylinders, in the layout of i-CLEVR."""
    from fromnoise.data import write_shapes

    with progress_bar("rendering") as progress:
        write_shapes(folder, train=train, test=test, size=size, seed=seed, progress=progress)
    print(folder.absolute())


@data.command("check")
def data_check(
    path: Annotated[Path, Argument(help="a folder, zip, npz, npy or IDX file")],
    source: Annotated[
        str | None, Option(help="the source, such as folder or idx", show_default="detected")
    ] = None,
    split: Annotated[Literal["train", "test"], Option(help="for data with two")] = "train",
    verify: Annotated[bool, Option("--verify", help="also verify its cached images")] = False,
) -> None:
    """Read every image; print sizes, labels, duplicates, broken files and a fitting recipe."""
    from fromnoise.data import check_data
    from fromnoise.data.dataset import verify_entries

    with progress_bar("reading") as progress:
        report = check_data(path, source=source, split=split, progress=progress)
    print(report, *(verify_entries(path) if verify else ()), sep="\n")


def import_(
    file: Annotated[Path, Argument(help="another program's checkpoint, or a diffusers folder")],
    out: Annotated[Path, Option(help="a new folder for the model")],
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="KEY=VALUE", help="settings that the file lacks: size=64"),
    ] = None,
    format: Annotated[
        str | None, Option(help=f"such as {options.FORMATS}", show_default="detected")
    ] = None,
) -> None:
    """Import weights of another program as a model, to sample from it or to train it further."""
    import yaml

    from fromnoise.config.overrides import parse_override
    from fromnoise.interop import import_model
    from fromnoise.model.spec import FILE_OF

    changes = dict(map(parse_override, overrides or []))
    spec, notes = import_model(file, out, format=format, overrides=changes)
    shown = {"network", "diffusion", "sampling", "size", "data_range", "label_names"}
    settings = spec.model_dump(mode="json", include=shown)
    schedule = settings["diffusion"]["schedule"]
    if betas := schedule.get("betas"):
        schedule["betas"] = f"{len(betas)} from {betas[0]:.3g} to {betas[-1]:.3g}"
    print(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None), end="")
    for note in notes:
        print(note)
    kinds = " and ".join(kind for kind, name in FILE_OF.items() if (out / name).is_file())
    print(f"{spec.source}, {kinds} weights. Sample with: fromnoise sample {out.absolute()}")
