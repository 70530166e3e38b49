"""Shared models: the folder, the push with the hub replaced, and loading by name."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image

import fromnoise
from fromnoise.checkpoints import CheckpointError, FolderNotEmpty, read_tensors
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.interop.share import push, share
from fromnoise.model import names

FACTS = {"license": "mit", "about": "Digits of UCI, CC BY 4.0."}


@pytest.fixture
def shared(run, tmp_path):
    """The folder of a shared run, which has a table of scores."""
    (run / "evaluation" / "set").mkdir(parents=True)
    (run / "evaluation" / "set" / "metrics.md").write_text("| Fréchet distance | 1.25 |\n")
    return share(run, "me/digits", tmp_path / "shared", **FACTS)


@pytest.fixture
def shipped(shared, tmp_path, monkeypatch):
    """A package whose only model is `digits`, and an empty folder to work in."""
    shutil.move(shared, tmp_path / "package" / "digits")
    monkeypatch.setattr(names, "SHIPPED", tmp_path / "package")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "package" / "digits"


def refused(status, kind=HfHubHTTPError):
    """The error of the hub for a status of HTTP."""
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("no such thing", response=response)


def test_a_shared_folder_has_weights_recipe_samples_and_a_card(shared, run):
    assert sorted(file.name for file in shared.iterdir()) == [
        *("README.md", "model.safetensors", "recipe.yaml", "samples.png")
    ]
    model, own = fromnoise.load(shared / "model.safetensors"), fromnoise.load(run)
    assert model.same_weights(own)
    assert torch.equal(model.sample([3]), own.sample([3]))
    recipe = load_recipe(str(shared / "recipe.yaml"))
    assert recipe.data.path is None
    assert recipe.network == load_recipe(str(run / "recipe.yaml")).network
    _, head, text = (shared / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "mit"
    for fact in (FACTS["about"], "fromnoise sample hub:me/digits", "| Fréchet distance | 1.25 |"):
        assert fact in text
    with Image.open(shared / "samples.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_half_precision_halves_the_file_and_loads_as_float32(run, tmp_path):
    folder = share(run, "me/digits", tmp_path / "half", half=True, **FACTS)
    tensors = read_tensors(folder / "model.safetensors").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    model, own = fromnoise.load(folder / "model.safetensors"), fromnoise.load(run)
    for rounded, exact in zip(model.denoiser.parameters(), own.denoiser.parameters(), strict=True):
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, exact.half().float())


def test_a_folder_with_files_is_left_alone(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(FolderNotEmpty):
        share(run, "me/digits", tmp_path / "full", **FACTS)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_push_creates_the_model_and_uploads_the_folder(shared, monkeypatch):
    calls = []
    hub = SimpleNamespace(
        create_repo=lambda name: calls.append(name),
        upload_folder=lambda **given: calls.append((given["repo_id"], given["folder_path"])),
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert push(shared, "me/digits") == "https://huggingface.co/me/digits"
    assert calls == ["me/digits", ("me/digits", shared)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(409), "me/digits was not pushed: the name is taken"),
        (refused(401), "no such thing"),
        (OSError("no route to host"), "no route to host"),
    ],
)
def test_a_push_that_fails_is_one_line_and_keeps_the_folder(shared, monkeypatch, error, said):
    def create_repo(name):
        raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=create_repo))
    with pytest.raises(ConfigError, match=said) as caught:
        push(shared, "me/digits")
    assert "\n" not in str(caught.value)
    assert (shared / "README.md").exists()


def test_the_command_writes_the_folder_and_checks_the_name(run, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = ("--license", "mit", "--about", "Digits.")
    assert cli("share", run, "digits", *facts).code == 2
    assert "is not a name of a hub" in cli("share", run, "digits", *facts).err
    assert not (tmp_path / "digits").exists()
    assert cli("share", run, "me/mine", *facts).code == 0
    assert (tmp_path / "mine" / "model.safetensors").exists()


def test_a_shipped_model_is_loaded_by_its_name(shipped, cli):
    model = fromnoise.load("digits")
    assert model.same_weights(fromnoise.load(shipped / "model.safetensors"))
    result = cli("sample", "digits", "--num", 2, "--steps", 2)
    assert result.code == 0, result.err
    (folder,) = Path("samples").iterdir()
    assert folder.name.startswith("digits-")
    assert sorted(file.name for file in shipped.iterdir()) == [
        *("README.md", "model.safetensors", "recipe.yaml", "samples.png")
    ]
    assert "digits" in cli("models").out
    assert cli("models", "digits").out == (shipped / "README.md").read_text()
    unknown = cli("models", "digit")
    assert unknown.code == 2
    assert "did you mean digits" in unknown.err


def test_an_own_folder_of_the_name_wins(shipped, run, caplog):
    shutil.copytree(run, "digits")
    caplog.set_level("INFO", logger="fromnoise")
    fromnoise.load("digits")
    assert "digits is the one in this folder, not the shipped model of that name" in caplog.text


def test_a_training_starts_from_a_shipped_model(shipped, tiny, tmp_path, caplog):
    caplog.set_level("INFO", logger="fromnoise")
    overrides = {"training.start_from": "digits", "training.steps": 1}
    trained = fromnoise.train(tiny, out=tmp_path / "new", overrides=overrides)
    assert "starting from the ema weights of digits" in caplog.text
    assert "start_from: digits\n" in (trained.folder / "recipe.yaml").read_text()


def test_a_model_of_the_hub_is_downloaded(shared, monkeypatch, caplog):
    asked = []

    def hf_hub_download(repository, file, *, revision):
        asked.append((repository, file, revision))
        return str(shared / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    caplog.set_level("INFO", logger="fromnoise")
    model = fromnoise.load("hub:me/digits@v2")
    assert asked == [("me/digits", "model.safetensors", "v2")]
    assert model.same_weights(fromnoise.load(shared / "model.safetensors"))
    assert "hub:me/digits@v2: revision shared, SHA-256 " in caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalEntryNotFoundError("offline"), "the hub does not answer"),
        (refused(404, RepositoryNotFoundError), "Check the name, and your access"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_one_line(monkeypatch, cli, tmp_path, error, said):
    def hf_hub_download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.chdir(tmp_path)
    result = cli("sample", "hub:me/digits")
    assert result.code == 2
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_the_extra_a_name_of_the_hub_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'fromnoise\[hub\]'"):
        fromnoise.load("hub:me/digits")
