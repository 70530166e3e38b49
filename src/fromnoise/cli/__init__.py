"""The command line: `fromnoise`, or `python -m fromnoise`. Each command is one call elsewhere.

A command imports what it needs when it runs, so that the help does not wait for torch.
"""

import logging
import re
import sys

import typer
from rich.logging import RichHandler

from fromnoise import __version__
from fromnoise.cli.classifier import classifier_import, classifier_train
from fromnoise.cli.data import data_check, data_shapes
from fromnoise.cli.doctor import doctor
from fromnoise.cli.edit import edit_inpaint, edit_interpolate, edit_vary
from fromnoise.cli.evaluate import evaluate, evaluate_labels, likelihood
from fromnoise.cli.interop import import_
from fromnoise.cli.recipes import recipes, recipes_show
from fromnoise.cli.renamed import check_not_renamed
from fromnoise.cli.sample import sample
from fromnoise.cli.sweep import sweep
from fromnoise.cli.train import ema, progress, report, resume, train
from fromnoise.progress import console

app = typer.Typer(
    help="Train denoising diffusion models on your own images; sample, edit and evaluate.",
    epilog="--debug, with any command, shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (train, resume, sample, progress, doctor, ema):
    app.command()(command)
for command in (evaluate, evaluate_labels, likelihood, sweep, report):
    app.command()(command)
app.command("import")(import_)

data_app = typer.Typer(
    help="Check images before training, or render a synthetic set.", no_args_is_help=True
)
data_app.command("check")(data_check)
data_app.command("shapes")(data_shapes)
app.add_typer(data_app, name="data")

classifier_app = typer.Typer(
    help="Train a classifier that predicts the labels of images.", no_args_is_help=True
)
classifier_app.command("train")(classifier_train)
classifier_app.command("import")(classifier_import)
app.add_typer(classifier_app, name="classifier")

edit_app = typer.Typer(help="Edit images: inpaint, vary, interpolate.", no_args_is_help=True)
edit_app.command("inpaint")(edit_inpaint)
edit_app.command("vary")(edit_vary)
edit_app.command("interpolate")(edit_interpolate)
app.add_typer(edit_app, name="edit")

recipes_app = typer.Typer(help="List the recipes of the package.")
recipes_app.callback(invoke_without_command=True)(recipes)
recipes_app.command("show")(recipes_show)
app.add_typer(recipes_app, name="recipes")


def main() -> None:
    """Run the command line. An error is one line and exit code 2, or 1 if the machine failed."""
    if sys.argv[1:] == ["--version"]:
        print(f"fromnoise {__version__}")
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
        check_not_renamed(arguments)
        app(arguments, prog_name="fromnoise")
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        line = error_line(error)
        if debug or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)


def error_line(error: Exception) -> str | None:
    """Return the message of an expected error, or None for a bug."""
    message = re.sub(r"\s*\n\s*", " ", str(error))
    if isinstance(error, ValueError):
        return message
    import torch

    from fromnoise.checkpoints import DiskFull, NotFinite
    from fromnoise.training.loop import Diverged

    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or "allocate memory" in message or "out of memory" in message:
        return (
            "out of memory. Set training.accumulation=2 or more, which computes the same batch in "
            "smaller parts, or a smaller --batch-size for sampling."
        )
    if isinstance(error, DiskFull):
        return str(error.strerror)
    return message if isinstance(error, OSError | Diverged | NotFinite) else None
