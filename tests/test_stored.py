"""What an earlier version stored still loads, samples and evaluates; `stored/write.sh` wrote it.

Resuming the runs is tested in training/, the classifier in classifier/, the records in report/.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fromnoise
from fromnoise.config.recipe import load_recipe
from fromnoise.pictures import samples_in

STORED = Path(__file__).parent / "stored"


@pytest.fixture
def stored(tmp_path):
    """stored("plain"): a copy of a stored run, free to be changed."""
    return lambda name: Path(shutil.copytree(STORED / name, tmp_path / name))


def test_old_keys_of_a_recipe_are_read_as_todays():
    plain, classes = (load_recipe(STORED / name / "recipe.yaml") for name in ("plain", "classes"))
    assert plain.sampling.timesteps == "leading"
    assert plain.training.noise_levels.name == "importance"
    assert plain.diffusion.loss == "mse"
    assert plain.diffusion.schedule.name == "custom"
    assert len(plain.diffusion.schedule.options["betas"]) == 20
    assert classes.training.noise_levels.name == "stratified"
    assert load_recipe(STORED / "digits.yaml") == load_recipe("digits")


@pytest.mark.parametrize(
    ("name", "count", "conditional"),
    [("plain", 4, False), ("classes", 4, True), ("best.safetensors", 4, False)],
)
def test_models_sample_the_same_images(name, count, conditional):
    """A grey level is the rounding of another processor's kernels."""
    model = fromnoise.load(STORED / name, device="cpu")
    cond = torch.eye(10)[:count] if conditional else None
    images = model.sample(range(count), cond=cond, precision="fp32").numpy().astype(int)
    with np.load(STORED / "samples.npz") as expected:
        assert np.abs(images - expected[name.split(".")[0]]).max() <= 1


@pytest.mark.slow
def test_runs_are_evaluated(stored, cli, tmp_path):
    few = ["--extractor", "pixels", "--num", "66", "--steps", "2"]
    for name in ("plain", "classes"):
        scored = cli("evaluate", stored(name), *few, "--out", tmp_path / f"scores of {name}")
        assert scored.code == 0, scored.err
        assert "| Fréchet distance |" in scored.out


def test_pngs_are_known_as_samples():
    [folder] = (STORED / "plain" / "samples").iterdir()
    assert [texts["seed"] for texts in samples_in(folder).values()] == ["0", "1", "2", "3"]
