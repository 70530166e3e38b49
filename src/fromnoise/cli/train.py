"""`fromnoise train`, `resume` and `progress`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise import config, runs, training
from fromnoise.cli import parsing as asking
from fromnoise.cli.options import Overrides


def train(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")],
    overrides: Overrides = None,
    data: Annotated[
        Path | None, typer.Option(help="a folder, zip, npz or IDX file to train on instead")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the run folder", show_default="runs/RECIPE")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="broken files are an error")] = False,
) -> None:
    """Train a recipe into a new run folder."""
    changes = dict(map(config.parse_override, overrides or []))
    if strict:
        changes["data.strict"] = True
    runs.train(recipe, out=out, data=data, overrides=changes)


def resume(
    run: Annotated[Path, typer.Argument(help="a run folder")], overrides: Overrides = None
) -> None:
    """Continue a run exactly where it stopped. training.steps=N makes it longer."""
    runs.resume(run, overrides=dict(map(config.parse_override, overrides or [])))


def progress(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    epochs: Annotated[
        str | None,
        typer.Option(help="such as 0,50,100,150,199", show_default="five, evenly spaced"),
    ] = None,
) -> None:
    """Draw the previews of several steps of a training side by side."""
    chosen = asking.parse_epochs(epochs) if epochs is not None else None
    print(training.progress_figure(run, epochs=chosen).absolute())
