"""The choices of a recipe, one at a time: what is trained, and what is kept of it."""

import inspect
import json
import sys
from pathlib import Path

import fromnoise_recipe
import numpy as np
import ours
import pytest
import recipe_choices
import report
import shards
from race import Measured
from recipe_choices import AS_IT_IS, CHOICES, folder_of, recipe_of, stages_of, step_of

RNG = np.random.default_rng(0)
GIVEN = {"data": Path("images.npy"), "steps": 3, "num": 5, "precision": "fp32"}


def test_every_choice_but_the_first_is_another_recipe():
    recipes = {choice: recipe_of(choice) for choice in CHOICES}
    assert len({recipe.to_yaml() for recipe in recipes.values()}) == len(CHOICES)
    assert len({folder_of(choice) for choice in CHOICES}) == len(CHOICES)


def test_what_a_choice_changes_reaches_its_training_and_nothing_else_differs():
    as_it_is, _ = stages_of("fast", Path("out"), **GIVEN)
    other, drawing = stages_of("fast; another seed", Path("out"), **GIVEN)
    before, after = (one.contestant.options["recipe"] for one in (as_it_is, other))
    assert after["training"].pop("seed") == before["training"].pop("seed") + 1
    assert after == before
    assert drawing.contestant.options["trained"].endswith("out/fast-another-seed/training")
    for stage in (other, drawing):
        called = getattr(fromnoise_recipe, stage.contestant.work.split(":")[1])
        inspect.signature(called).bind(
            folder="", **json.loads(json.dumps(stage.contestant.options))
        )


def test_only_what_costs_time_is_raced(monkeypatch):
    """The steps of the others follow from those of an equal cost."""
    raced = []

    def race(contestants, *, rounds):
        raced.extend(contestants)
        return {
            one.name: Measured("", 1, [2.0 if one.options["batch_size"] == 64 else 0.5], 0.0)
            for one in contestants
        }

    monkeypatch.setattr(recipe_choices, "race", race)
    steps = recipe_choices.steps_within(4, {one: recipe_of(one) for one in CHOICES}, "fp32")
    assert steps.keys() == CHOICES.keys()
    assert steps["batch_size: 64"] == 120
    assert steps[AS_IT_IS] == steps["learning_rate: 1.6e-3"] == 480
    assert len(raced) < len(CHOICES)
    assert len({one.name for one in raced}) == len(raced)
    for one in raced:
        inspect.signature(ours.training_step).bind(**one.options)
    assert step_of(recipe_of("optimizer: adam"), "fp32").options["optimizer"] == "adam"


@pytest.fixture
def measure(tmp_path, garments, classifier, monkeypatch, capsys):
    """The script on 40 images each, nothing of whose trainings is left to do."""
    out = tmp_path / "out"
    monkeypatch.setattr(recipe_choices, "CHOICES", {AS_IT_IS: {}, "batch_size: 64": {}})
    monkeypatch.setattr(
        recipe_choices, "steps_within", lambda *_: dict.fromkeys(recipe_choices.CHOICES, 7)
    )
    for i, name in enumerate(("the-base", "batch_size-64")):
        images = RNG.integers(0, 256 - 60 * i, (40, 1, 28, 28), dtype=np.uint8)
        (out / name / "drawn").mkdir(parents=True)
        np.savez(out / name / "drawn" / shards.IMAGES, images=images)
        (out / name / "drawn.json").write_text(json.dumps({"count": 40}))
        (out / name / "training.json").write_text(json.dumps({"how": "by hand"}))
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(recipe_choices, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "executable", "/nowhere")  # nothing can be started

    def call(*more: str) -> tuple[str, dict]:
        line = ["--out", out, "--classifier", classifier, "--data", garments, "--num", 40, *more]
        monkeypatch.setattr(sys, "argv", ["recipe_choices.py", *map(str, line)])
        recipe_choices.main()
        kept = (tmp_path / "results" / "recipe_choices.json").read_text()
        return capsys.readouterr().out, json.loads(kept)

    return call


@pytest.mark.slow
def test_choices_that_are_trained_are_only_scored(measure, garments, tmp_path):
    printed, kept = measure()
    base, other = (one["frechet_distance"]["value"] for one in kept["choices"].values())
    assert base != other
    assert "the base  " in printed
    assert kept["choices"]["batch_size: 64"]["steps"] == 7
    assert kept["real_images"]["value"] > 0
    _, again = measure("--only", "64")
    assert again["choices"] == kept["choices"]
    trained = np.load(tmp_path / "out" / "images.npy")
    every = len(trained) + kept["training_images"]
    assert kept["training_images"] == every // 10


@pytest.mark.slow
def test_a_folder_keeps_to_its_minutes(measure, capsys):
    measure()
    with pytest.raises(SystemExit, match=r"has results with minutes = 10. Give the same"):
        measure("--minutes", "20")
    with pytest.raises(SystemExit):
        measure("--only", "nobody")
    assert "no choice has 'nobody' in its name" in capsys.readouterr().err
