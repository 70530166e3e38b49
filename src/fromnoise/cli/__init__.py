"""The command line: `fromnoise` or `python -m fromnoise`.

Each command calls one function of another folder. It imports that function when it runs, so that
the help does not import torch.
"""

import io
import logging
import re
import sys
from itertools import pairwise
from typing import Any

import typer
from rich.logging import RichHandler

import fromnoise
from fromnoise.cli.classifier import classifier
from fromnoise.cli.edit import edit
from fromnoise.cli.evaluate import evaluate, evaluate_labels, likelihood, sweep
from fromnoise.cli.export import export
from fromnoise.cli.inputs import data, import_, recipes
from fromnoise.cli.renamed import check_not_renamed
from fromnoise.cli.sample import sample
from fromnoise.cli.share import models, share
from fromnoise.cli.studio import studio
from fromnoise.cli.train import doctor, ema, progress, report, resume, train
from fromnoise.config.errors import ConfigError
from fromnoise.error_lines import error_line, sentence
from fromnoise.progress import console, printable

app = typer.Typer(
    help="Train denoising diffusion models on your own images; sample, edit and evaluate.",
    epilog="Add --debug to any command to see the traceback of an error.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
for command in (train, resume, sample, progress, doctor, ema):
    app.command()(command)
for command in (evaluate, evaluate_labels, likelihood, sweep, report):
    app.command()(command)
app.command("import")(import_)
app.command()(export)
for command in (models, share):
    app.command()(command)
app.command()(studio)
for group in (data, classifier, edit, recipes):
    app.add_typer(group)
UsageError: Any = typer.BadParameter.__base__  # typer does not export it


def main() -> None:
    """Run the command line. An error is one line and exit code 2, or 1 if the machine failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that a terminal cannot show
    if sys.argv[1:] == ["--version"]:
        print(f"fromnoise {fromnoise.__version__}")
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
        if "--out=" in arguments or ("--out", "") in pairwise(arguments):
            raise ConfigError("--out is empty. Give a path, or remove --out.")
        check_not_renamed(arguments)
        for argument in arguments:  # the files of a run could not hold such a path
            if re.search("[\ud800-\udfff]", argument):
                raise ConfigError(
                    f"{argument} is not UTF-8. Rename the file, or give a link to it."
                )
        sys.exit(app(arguments, prog_name="fromnoise", standalone_mode=False) or 0)
    except UsageError as error:
        if line := usage_line(error, arguments):  # none if the help was shown
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        line = error_line(error)
        if debug or line is None:
            raise
        print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)


def usage_line(error: Any, arguments: list[str]) -> str:
    """Return an error about arguments as one line: the flag, its value and the help to read."""
    message = error.format_message()
    flags = getattr(getattr(error, "param", None), "opts", [])
    for flag in set(flags) & set(arguments[:-1]):
        given = f"{flag} {arguments[arguments.index(flag) + 1]}"
        message = message.partition(": ")[2].partition(", unable")[0]
        message = f"{given}: {message.removeprefix('Value error, ').replace('Input ', 'it ')}"
    command = getattr(error.ctx, "command_path", "fromnoise")
    return message and f"{sentence(message)} See {command} --help."
