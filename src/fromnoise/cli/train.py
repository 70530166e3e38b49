"""`fromnoise train`, `resume`, `progress`, `doctor`, `ema` and `report`."""

import signal
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from fromnoise.cli import options
from fromnoise.progress import progress_bar

COLOURS = {"ok": "green", "warn": "yellow", "error": "bold red"}  # of the doctor


def train(
    recipe: options.RecipeName,
    settings: options.TrainingKeys = None,
    data: options.TrainingData = None,
    out: options.RunFolder = None,
) -> None:
    """Train a recipe into a new run folder."""
    overrides = options.parse_training(recipe, settings)
    from fromnoise import runs

    exit_as_stopped(runs.train(recipe, out=out, data=data, overrides=overrides).stopped_by)


def exit_as_stopped(name: str | None) -> None:
    """Exit with the code of a signal if one stopped the training."""
    if name is not None:
        raise Exit(128 + signal.Signals[name])


def resume(
    run: Annotated[Path, Argument(help="a run folder")],
    settings: options.TrainingKeys = None,
    from_scratch: Annotated[
        bool, Option("--from-scratch", help="restart at step 0 if every checkpoint is damaged")
    ] = False,
) -> None:
    """Resume a run exactly where it stopped. Set steps=N to train longer."""
    recipe = run / "recipe.yaml"
    overrides = options.parse_training(recipe, settings) if recipe.is_file() else {}
    from fromnoise import runs

    resumed = runs.resume(run, overrides=overrides, from_scratch=from_scratch)
    exit_as_stopped(resumed.stopped_by)


def progress(
    run: Annotated[Path, Argument(help="a run folder")],
    epochs: Annotated[
        str | None, Option(help="such as 0,50,100,150,199", show_default="five, evenly spaced")
    ] = None,
) -> None:
    """Draw previews of several steps of a training side by side."""
    chosen = options.parse_numbers(epochs, "--epochs", "0,50,199") if epochs is not None else None
    from fromnoise.training.previews import progress_figure

    print(progress_figure(run, epochs=chosen).absolute())


def ema(
    run: Annotated[Path, Argument(help="a run with training.ema_lengths")],
    length: Annotated[
        float, Option(help="length of the average over that of the training, σ_rel < 0.2887")
    ],
    step: Annotated[
        int | None, Option(help="last step of the average", show_default="the last snapshot")
    ] = None,
    out: Annotated[
        Path | None, Option(help="a new FILE.safetensors", show_default="ema/length-…  in the run")
    ] = None,
) -> None:
    """Write a model with an average of any length, made from a run's snapshots."""
    from fromnoise.training.ema import reconstruct

    average = reconstruct(run, length, step=step, out=out)
    print(average.file.absolute())
    print(
        f"length {length:g} at step {average.step:,}, from {average.snapshots} snapshots, relative "
        f"error of its profile {100 * average.error:.2f} %"
    )


def report(
    run_folders: Annotated[list[Path], Argument(metavar="RUN...", help="run folders")],
    out: Annotated[
        Path | None, Option(help="an HTML file", show_default="report.html in the first run")
    ] = None,
) -> None:
    """Write a self-contained HTML page about one run, or about several side by side."""
    from fromnoise.report.report import write_report

    with progress_bar("denoising") as bar:
        page = write_report(run_folders, out, progress=bar)
    print(page)


def doctor(
    recipe: options.RecipeName,
    settings: options.TrainingKeys = None,
    data: options.TrainingData = None,
    out: options.RunFolder = None,
) -> None:
    """Check the settings, time and memory of a training. Exit with 1 after an error."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    changes = options.parse_training(recipe, settings)
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
        raise Exit(1)
