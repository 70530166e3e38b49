"""The script that makes the models of the package: its commands, and what it packs."""

import shutil

import pytest
import shipped_models
import typer.main
from shipped_models import MODELS, make

import fromnoise
from fromnoise.cli import app
from fromnoise.config.recipe import shipped_recipes
from fromnoise.model import names


@pytest.fixture
def called(monkeypatch, tmp_path):
    """The commands that were called; their --out exists from then on."""
    lines = []

    def call(*arguments):
        words = [str(argument) for argument in arguments]
        lines.append(words)
        (tmp_path / words[words.index("--out") + 1]).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(shipped_models, "fromnoise", call)
    monkeypatch.setattr(shipped_models, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(names, "SHIPPED", tmp_path / "shipped")
    return lines


def test_a_run_that_is_there_is_scored_and_packed(called, run, tmp_path):
    shutil.move(run, tmp_path / "out" / "digits")
    folder = make("digits", None, tmp_path / "out")
    assert [words[0] for words in called] == ["evaluate"]
    assert names.shipped_models() == {"digits": folder / "model.safetensors"}
    assert "license: cc-by-4.0" in names.card_of("digits")
    assert fromnoise.load("digits").spec.step == 6


@pytest.mark.parametrize("name", MODELS)
def test_the_commands_have_the_options_that_they_use(name, called, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_models, "share", lambda *_, **__: None)
    make(name, "pictures.zip", tmp_path / "out")
    assert MODELS[name].recipe in shipped_recipes()
    assert called[0][:2] == ["train", MODELS[name].recipe]
    for words in called:
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    called.clear()
    make(name, "pictures.zip", tmp_path / "out")
    assert not called  # finished steps are not repeated
