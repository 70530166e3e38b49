"""The command line: `fromnoise`, or `python -m fromnoise`. Every command is one call elsewhere."""

import logging
import re
import sys
from importlib.metadata import version

import torch
import typer
from rich.logging import RichHandler

from fromnoise import checkpoints, training
from fromnoise.cli.classifier import classifier_import, classifier_train
from fromnoise.cli.data import data_check, data_shapes
from fromnoise.cli.doctor import doctor
from fromnoise.cli.edit import edit_inpaint, edit_interpolate, edit_vary
from fromnoise.cli.ema import ema
from fromnoise.cli.evaluate import evaluate
from fromnoise.cli.interop import import_
from fromnoise.cli.recipes import recipes, recipes_show
from fromnoise.cli.report import report
from fromnoise.cli.sample import sample
from fromnoise.cli.sweep import sweep
from fromnoise.cli.train import progress, resume, train
from fromnoise.progress import console

app = typer.Typer(
    help="Denoising diffusion models on your own images: train, resume, sample.",
    epilog="Any command takes --debug, which shows the whole traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (train, resume, sample, progress, doctor, ema, evaluate, sweep, report):
    app.command()(command)
app.command("import")(import_)

data_app = typer.Typer(help="Look at images before training on them.", no_args_is_help=True)
data_app.command("check")(data_check)
data_app.command("shapes")(data_shapes)
app.add_typer(data_app, name="data")

classifier_app = typer.Typer(
    help="Classifiers that predict the labels of images.", no_args_is_help=True
)
classifier_app.command("train")(classifier_train)
classifier_app.command("import")(classifier_import)
app.add_typer(classifier_app, name="classifier")

edit_app = typer.Typer(help="Make new images from given ones.", no_args_is_help=True)
edit_app.command("inpaint")(edit_inpaint)
edit_app.command("vary")(edit_vary)
edit_app.command("interpolate")(edit_interpolate)
app.add_typer(edit_app, name="edit")

recipes_app = typer.Typer(help="The recipes that come with the package.")
recipes_app.callback(invoke_without_command=True)(recipes)
recipes_app.command("show")(recipes_show)
app.add_typer(recipes_app, name="recipes")


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
