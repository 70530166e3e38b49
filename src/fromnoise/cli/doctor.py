"""`fromnoise doctor`."""

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fromnoise.cli.options import RecipeName, RunFolder, TrainingData, TrainingKeys

COLOURS = {"ok": "green", "warn": "yellow", "error": "bold red"}


def doctor(
    recipe: RecipeName,
    settings: TrainingKeys = None,
    data: TrainingData = None,
    out: RunFolder = None,
) -> None:
    """Estimate what a training costs and learns on this machine. Exit with 1 after an error."""
    from fromnoise.cli.parsing import parse_training

    changes = parse_training(recipe, settings)
    from fromnoise.doctor.doctor import diagnose

    findings = diagnose(recipe, out=out, data=data, overrides=changes)
    console = Console()
    if console.is_terminal:
        table = Table(Column("", no_wrap=True), "check", "result", "advice")
        for finding in findings:
            level = f"[{COLOURS[finding.level]}]{finding.level}"
            table.add_row(level, *map(escape, (finding.topic, finding.message, finding.advice)))
        console.print(table)
    else:
        for finding in findings:
            print(finding)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
