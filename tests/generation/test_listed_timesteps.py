"""A run whose recipe lists its timesteps, through the commands that sample."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.generation import edits
from fromnoise.model import model as model_module

TIMES = [100, 61, 30, 7]
NAME = "times-"  # and a digest


@pytest.fixture(scope="module")
def listed(tiny_tree, tmp_path_factory):
    """A run of one step."""
    tree = copy.deepcopy(tiny_tree)
    tree["training"]["steps"] = 1
    tree["sampling"] = {"timesteps": TIMES}
    return fromnoise.train(tree, out=tmp_path_factory.mktemp("listed") / "run").folder


@pytest.fixture
def walks(monkeypatch):
    """The (t, s) of each step, a list for each batch."""
    seen, watched = [], model_module.watched

    def watch(steps, seeds=()):
        seen.append([])
        for step in watched(steps, seeds):
            seen[-1].append((step.t, step.s))
            yield step

    for module in (model_module, edits):
        monkeypatch.setattr(module, "watched", watch)
    return seen


def pairs(*times):
    return list(pairwise(times))


def test_the_recipe_and_the_model_keep_the_list(listed):
    assert load_recipe(listed / "recipe.yaml").sampling.timesteps == tuple(TIMES)
    assert fromnoise.load(listed).spec.sampling.timesteps == tuple(TIMES)
    changes = {"sampling.steps": 9}
    assert load_recipe(listed / "recipe.yaml", changes).sampling.timesteps == "trailing"
    changes = {"sampling.timesteps": [100, 3]}
    assert load_recipe(listed / "recipe.yaml", changes).sampling.steps == 2
    changes = {"sampling.timesteps": [100, 3], "sampling.steps": 9}
    with pytest.raises(ConfigError, match=r"steps = 9, but sampling\.timesteps lists 2 times"):
        load_recipe(listed / "recipe.yaml", changes)


def test_samples_are_at_the_listed_times_and_say_them(cli, listed, tmp_path, walks, caplog):
    caplog.set_level("INFO")
    code, _, err = cli("sample", listed, "--num", 2, "--trajectory", "--gif")
    assert code == 0, err
    assert walks == [pairs(*TIMES, 0)]
    [folder] = (listed / "samples").iterdir()
    assert folder.name.startswith(f"000001-ema-ddim-4-{NAME}")
    with Image.open(folder / "000000.png") as image:
        assert image.text["timesteps"] == "100, 61, 30, 7"
        assert image.text["steps"] == "4"
    # the same times by hand, and others
    same = ("timesteps=[100,61,30,7]", "--steps", 4, "--out", tmp_path / "same")
    assert cli("sample", listed, "--num", 2, *same).code == 0
    for name in ("000000.png", "000001.png"):
        one, other = (np.asarray(Image.open(at / name)) for at in (folder, tmp_path / "same"))
        assert np.array_equal(one, other)
    assert not [line for line in caplog.messages if "lists" in line]
    assert cli("sample", listed, "--num", 2, "--steps", 3).code == 0
    assert walks[-1] == pairs(100, 67, 33, 0)
    assert [line for line in caplog.messages if "lists" in line] == [
        "the model lists 4 timesteps: these 3 are trailing. Set timesteps for others."
    ]
    assert (listed / "samples" / "000001-ema-ddim-3").is_dir()


def test_edits_are_at_the_listed_times(cli, listed, tmp_path, walks):
    image = tmp_path / "image.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(mask)
    edit = ("edit", "vary", listed, "--image", image, "--num", 1, "--out", tmp_path / "vary")
    assert cli(*edit, "--strength", 0.5).code == 0
    assert walks.pop() == pairs(50, 30, 7, 0)
    line = ("edit", "interpolate", listed, "--out", tmp_path / "between", "--frames", 2)
    assert cli(*line, "--a", image, "--b", mask).code == 0
    up = [(s, t) for t, s in reversed(pairs(*TIMES, 0))]
    assert walks == [up, pairs(*TIMES, 0)]
    line = ("edit", "inpaint", listed, "--image", image, "--mask", mask, "--num", 1)
    assert cli(*line, "--out", tmp_path / "mended").code == 0


def test_scores_say_the_listed_times(cli, listed, tmp_path):
    how = ("--extractor", "pixels", "--num", 66, "--metrics", "fid")
    code, out, err = cli("evaluate", listed, *how)
    assert code == 0, err
    [folder] = (listed / "evaluation").iterdir()
    assert "-ddim-4-fp32" in folder.name  # those of the model are its own
    assert "4 steps of ddim, eta 0.0 at t = 100, 61, 30, 7; labels" in out
    record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert record["generated"]["sampling"]["timesteps"] == TIMES
    assert cli("evaluate", listed, *how, "timesteps=[99,50]").code == 0
    [other] = (listed / "evaluation").glob("*-ddim-2-*")
    assert f"-ddim-2-{NAME}" in other.name


def test_a_report_of_such_a_run(cli, listed, tmp_path, caplog):
    caplog.set_level("INFO")
    assert cli("report", listed, "--out", tmp_path / "report.html").code == 0
    assert "[100, 61, 30, 7]" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not [line for line in caplog.messages if "lists" in line]
