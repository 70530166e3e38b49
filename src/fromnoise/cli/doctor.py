"""`fromnoise doctor`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fromnoise import config, training
from fromnoise.cli.options import TrainingKeys

COLOURS = {"ok": "green", "look": "yellow", "wrong": "bold red"}


def doctor(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")],
    settings: TrainingKeys = None,
    data: Annotated[
        Path | None, typer.Option(help="a folder, zip, npz or IDX file to train on instead")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="where the run is to be", show_default="runs/RECIPE")
    ] = None,
) -> None:
    """Say what a recipe will cost and come to here, before it is trained; exit 1 if wrong."""
    changes = config.parse_overrides(settings or [], "training")
    findings = training.diagnose(recipe, out=out, data=data, overrides=changes)
    console = Console()
    if console.is_terminal:
        table = Table(Column("", no_wrap=True), "what", "", "what to change")
        for finding in findings:
            level = f"[{COLOURS[finding.level]}]{finding.level}"
            table.add_row(level, *map(escape, (finding.what, finding.said, finding.advice)))
        console.print(table)
    else:
        for finding in findings:
            print(finding)
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)
