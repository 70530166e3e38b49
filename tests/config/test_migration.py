"""Recipes and model files with the keys of earlier versions are read as today's."""

import shutil
from pathlib import Path

import pytest
import yaml

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import RENAMED_KEYS, RENAMED_VALUES, migrate, migrate_section
from fromnoise.config.overrides import dotted
from fromnoise.config.recipe import load_recipe, parse_recipe

STORED = Path(__file__).parent.parent / "stored"  # runs of the version before the new names
BETAS = [0.1, 0.2]
OLD = {
    "data": {"source": "digits"},
    "network": {"name": "ddpm", "channels": 8, "groups": 4},
    "diffusion": {"T": 2, "schedule": {"name": "given", "betas": BETAS}, "metric": "huber"},
    "training": {
        "steps": 5,
        "batch_size": 6,
        "times": "stratified",
        "accumulation": 4,
        "tensorboard": True,
    },
    "sampling": {"sampler": {"name": "ddim", "eta": 0.5}, "steps": 2, "spacing": "leading"},
    "evaluation": {"every": 1, "extractor": "judge", "judge": "some/folder"},
}
NEW = {
    "data": {"source": "digits"},
    "network": {"name": "ddpm", "channels": 8, "groups": 4},
    "diffusion": {"T": 2, "schedule": {"name": "custom", "betas": BETAS}, "loss": "huber"},
    "training": {
        "steps": 5,
        "batch_size": 6,
        "noise_levels": "stratified",
        "parts": 6,
        "log_to": ["tensorboard"],
    },
    "sampling": {"sampler": {"name": "ddim", "eta": 0.5}, "steps": 2, "timesteps": "leading"},
    "evaluation": {"every": 1, "extractor": "classifier", "classifier": "some/folder"},
}


@pytest.mark.parametrize("parts", [0, -1, 7])
def test_parts_that_never_were_possible_are_not_made_so(parts):
    assert migrate_section("training", {"accumulation": parts, "batch_size": 6})["parts"] == parts


def test_every_old_key_and_value_becomes_the_new_one():
    assert migrate(OLD) == NEW
    assert migrate(NEW) == NEW
    keys = set(dotted(OLD)) | set(OLD["diffusion"]) | {"diffusion.schedule"}
    assert RENAMED_KEYS.keys() | {key for key, _ in RENAMED_VALUES} <= keys  # OLD has all of them


def test_a_recipe_with_old_names_is_the_recipe_with_new_ones(tmp_path):
    assert parse_recipe(OLD, "old") == parse_recipe(NEW, "new")
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(OLD))
    recipe = load_recipe(tmp_path / "old.yaml", {"sampling.steps": 1})
    assert (recipe.sampling.steps, recipe.sampling.timesteps) == (1, "leading")
    written = yaml.safe_load(recipe.to_yaml())
    assert not {"spacing", "times", "metric", "judge"} & {
        key for section in written.values() for key in section
    }


def test_a_schedule_named_alone_is_renamed_too():
    assert migrate_section("diffusion", {"schedule": "given"}) == {"schedule": "custom"}
    assert migrate_section("diffusion", {"schedule": "linear"}) == {"schedule": "linear"}


def test_the_new_key_wins_over_the_old_one():
    assert migrate_section("sampling", {"spacing": "leading", "timesteps": "karras"}) == {
        "timesteps": "karras"
    }


def test_names_of_other_sections_and_unknown_keys_stay():
    tree = {"data": {"judge": 1, "times": 2}, "spacing": 3, "sampling": {"metric": 4}}
    assert migrate(tree) == tree
    with pytest.raises(ConfigError, match=r"unknown key data\.times"):
        parse_recipe({**NEW, "data": {"source": "digits", "times": 2}}, "here")


@pytest.mark.parametrize("key", ["training.times", "sampling.spacing", "diffusion.metric"])
def test_an_old_key_in_python_is_refused_with_the_new_name(key):
    with pytest.raises(ConfigError, match=rf"^{key} has a new name\. Use "):
        parse_recipe(NEW, "here", {key: "mse"})


@pytest.mark.parametrize(
    ("run", "sampling", "noise_levels"),
    [("plain", ("ddpm", "leading"), "importance"), ("classes", ("ddim", "trailing"), "stratified")],
)
def test_a_stored_run_is_read(run, sampling, noise_levels):
    old = yaml.safe_load((STORED / run / "recipe.yaml").read_text())
    recipe, spec = fromnoise.Run(STORED / run).recipe(), fromnoise.load(STORED / run).spec
    for read in (recipe, spec):
        assert (read.sampling.sampler.name, read.sampling.timesteps) == sampling
        assert read.sampling.timesteps == old["sampling"]["spacing"]
        assert read.diffusion.loss == old["diffusion"]["metric"]
    assert recipe.training.noise_levels.name == old["training"]["times"] == noise_levels
    names = {"plain": "custom", "classes": "cosine"}
    assert spec.diffusion.schedule.name == recipe.diffusion.schedule.name == names[run]


def test_resume_compares_recipes_by_their_new_names(tmp_path, caplog):
    run = Path(shutil.copytree(STORED / "plain", tmp_path / "run"))
    caplog.set_level("INFO", "fromnoise")
    fromnoise.resume(run)  # old keys are no change
    assert "already finished at step 11" in caplog.text
    message = r"^diffusion\.loss = 'l1', but .* was trained with 'mse'"
    with pytest.raises(ConfigError, match=message):
        fromnoise.resume(run, overrides={"diffusion.loss": "l1", "training.steps": 12})
    with pytest.raises(ConfigError, match=r"^diffusion\.metric has a new name"):
        fromnoise.resume(run, overrides={"diffusion.metric": "l1"})
