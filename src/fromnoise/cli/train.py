"""`fromnoise train`, `resume` and `progress`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise import config, runs, training
from fromnoise.cli.options import TrainingKeys
from fromnoise.cli.parsing import parse_numbers


def train(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")],
    settings: TrainingKeys = None,
    data: Annotated[
        Path | None, typer.Option(help="a folder, zip, npz or IDX file to train on instead")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the run folder", show_default="runs/RECIPE")
    ] = None,
) -> None:
    """Train a recipe into a new run folder."""
    overrides = config.parse_overrides(settings or [], "training")
    runs.train(recipe, out=out, data=data, overrides=overrides)


def resume(
    run: Annotated[Path, typer.Argument(help="a run folder")], settings: TrainingKeys = None
) -> None:
    """Continue a run exactly where it stopped. training.steps=N makes it longer."""
    runs.resume(run, overrides=config.parse_overrides(settings or [], "training"))


def progress(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    epochs: Annotated[
        str | None,
        typer.Option(help="such as 0,50,100,150,199", show_default="five, evenly spaced"),
    ] = None,
) -> None:
    """Draw the previews of several steps of a training side by side."""
    chosen = parse_numbers(epochs, "--epochs", "0,50,199") if epochs is not None else None
    print(training.progress_figure(run, epochs=chosen).absolute())
