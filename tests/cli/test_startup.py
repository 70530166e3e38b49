"""What answers at once: the help, the recipes and mistakes, without importing torch."""

import json
import os
import re
import subprocess
import sys

import pytest
import typer.main

import fromnoise
from fromnoise.classifier.settings import ClassifierSettings
from fromnoise.cli import app, options
from fromnoise.cli.classifier import KEYS
from fromnoise.diffusion import SAMPLERS
from fromnoise.evaluation.sets import METRICS
from fromnoise.interop import FORMATS

SCRIPT = """
import contextlib, io, json, os, sys
import fromnoise
assert {"train", "Model", "__version__"} <= set(dir(fromnoise))
from fromnoise.cli import main

def call(line):
    sys.argv, code = ["fromnoise", *line], 0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main()
            except SystemExit as exit:
                code = exit.code
    heavy = {"torch", "torchvision", "numpy", "matplotlib", "tensorboard"}
    assert not heavy & sys.modules.keys(), line
    print(json.dumps([code, out.getvalue(), err.getvalue()]))

for line in json.loads(sys.argv[1]):
    call(line)
os.environ |= {"_FROMNOISE_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
os.environ["COMP_WORDS"] = "fromnoise train mnist-t"
call([])
"""
MISTAKES = {
    "trian": "No such command 'trian'",
    "train --what": "No such option: --what",
    "recipes show digitz": "there is no recipe 'digitz'; did you mean digits?",
    "train .": ". is a folder, not a recipe. To train on its images: fromnoise train folder",
    "train digitz": "there is no recipe 'digitz'; did you mean digits?",
    "train digits trainign.steps=3": "unknown key trainign.steps; did you mean training.steps?",
    "train digits training.stesp=3": "unknown key training.stesp; did you mean training.steps?",
    "train digits training.steps=x": "training.steps = 'x' is not a whole number",
    "train digits data.path": "'data.path' is not a setting",
    "train digits stesp=3": "unknown key stesp; did you mean steps?",
    "doctor digits sampling.etta=3": "unknown key sampling.etta",
    "resume RUN training.stesp=3": "unknown key training.stesp; did you mean training.steps?",
    "resume RUN training.steps=x": "training.steps = 'x' is not a whole number",
    "classifier train images --out new epochz=3": "unknown key epochz; did you mean epochs?",
}


def commands(group=None, words=()):
    """Yield the words of every command and group."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield [*words, name]
        if hasattr(command, "commands"):
            yield from commands(command, [*words, name])


@pytest.fixture(scope="module")
def answers(finished_run):
    """The line as one text → exit code, output, errors: of one process that never imports torch."""
    shown = [
        ["--version"],
        ["--help"],
        *([*words, "--help"] for words in commands()),
        ["edit", "vary", "-h"],
        ["--show-completion", "bash"],
    ]
    known = [["recipes"], ["recipes", "show", "digits"]]
    wrong = [line.replace("RUN", str(finished_run)).split() for line in MISTAKES]
    lines = [*shown, *known, *wrong]
    command = [sys.executable, "-c", SCRIPT, json.dumps(lines)]
    named = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # not our parent
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=named)
    names = [*map(" ".join, shown), *map(" ".join, known), *MISTAKES, "complete"]
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


def test_every_command_has_help(answers):
    shown = {line: answer for line, answer in answers.items() if line.endswith("--help")}
    assert len(shown) > 20
    for line, (code, out, _) in shown.items():
        assert code == 0, line
        assert "Usage: fromnoise" in out, line
    assert answers["edit vary -h"] == answers["edit vary --help"]
    assert answers["--version"] == [0, f"fromnoise {fromnoise.__version__}\n", ""]


def test_the_recipes_are_shown(answers):
    for line, said in {"recipes": "fashion-mnist", "recipes show digits": "source: digits"}.items():
        code, out, _ = answers[line]
        assert code == 0
        assert said in out


@pytest.mark.parametrize(("line", "said"), MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mistake_is_named(answers, line, said):
    code, out, err = answers[line]
    assert (code, out) == (2, "")
    assert said in err


def test_the_shell_completes(answers):
    code, script, _ = answers["--show-completion bash"]
    assert code == 0
    assert "_FROMNOISE_COMPLETE=complete_bash" in script
    code, out, _ = answers["complete"]
    assert (code, out.split()) == (0, ["mnist-tutorial"])


def test_names_that_the_help_says_without_torch_exist():
    assert KEYS.split(", ") == list(ClassifierSettings.model_fields)
    assert set(options.SAMPLERS.split(", ")) <= SAMPLERS.keys()
    assert set(options.METRICS.split(", ")) <= METRICS.keys()
    assert set(options.FORMATS.split(", ")) <= FORMATS.keys()


def test_every_public_name_is_there():
    names: dict[str, object] = {}
    exec("from fromnoise import *", names)
    assert set(fromnoise.__all__) <= names.keys() & set(dir(fromnoise))
    assert fromnoise.diffusion.SAMPLERS is SAMPLERS
    with pytest.raises(AttributeError, match=re.escape("has no attribute 'trian'")):
        fromnoise.trian  # noqa: B018
    with pytest.raises(ImportError, match="trian"):
        exec("from fromnoise import trian")
