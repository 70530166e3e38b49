"""The choices of a recipe, one at a time: what is trained, and what is kept of it."""

import inspect
import json
import sys
from pathlib import Path

import fromnoise_recipe
import numpy as np
import pytest
import recipe_choices
import report
import shards
from quality_of_drawings import RECIPE
from recipe_choices import CHOICES, stages_of

from fromnoise.config.recipe import load_recipe

RNG = np.random.default_rng(0)


def test_every_choice_but_the_first_is_another_recipe():
    as_it_is = load_recipe(RECIPE)
    recipes = [load_recipe(RECIPE, changed) for changed in CHOICES.values()]
    assert recipes[0] == as_it_is
    assert all(recipe != as_it_is for recipe in recipes[1:])
    assert len({recipe.to_yaml() for recipe in recipes}) == len(CHOICES)


def test_what_a_choice_changes_reaches_its_training_and_nothing_else_differs():
    given = {"data": None, "steps": 3, "num": 5}
    (as_it_is, _), (other, drawing) = (
        stages_of(name, changed, Path("out"), **given)
        for name, changed in (("a", {}), ("b", {"training.seed": 1}))
    )
    before, after = (one.contestant.options["overrides"] for one in (as_it_is, other))
    assert after == {**before, "training.seed": 1}
    assert before["training.precision"] in ("fp32", "bf16")  # not chosen by each anew
    assert drawing.contestant.options["trained"].endswith("out/b/training")
    for stage in (other, drawing):
        function = stage.contestant.work.split(":")[1]
        called = getattr(fromnoise_recipe, function)
        inspect.signature(called).bind(folder="", **stage.contestant.options)


@pytest.fixture
def measure(tmp_path, garments, classifier, monkeypatch, capsys):
    """The script on 40 images each, nothing of whose trainings is left to do."""
    out = tmp_path / "out"
    monkeypatch.setattr(recipe_choices, "CHOICES", {"the recipe": {}, "ema_decay: 0.5": {}})
    for i, name in enumerate(("the-recipe", "ema_decay-0.5")):
        images = RNG.integers(0, 256 - 60 * i, (40, 1, 28, 28), dtype=np.uint8)
        (out / name / "drawn").mkdir(parents=True)
        np.savez(out / name / "drawn" / shards.IMAGES, images=images)
        for stage, told in {"training": {"how": "by hand"}, "drawn": {"count": 40}}.items():
            (out / name / f"{stage}.json").write_text(json.dumps(told))
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "executable", "/nowhere")  # nothing can be started

    def call(*more: str) -> tuple[str, dict]:
        line = ["--out", out, "--classifier", classifier, "--data", garments, "--num", 40, *more]
        monkeypatch.setattr(sys, "argv", ["recipe_choices.py", *map(str, line)])
        recipe_choices.main()
        kept = (tmp_path / "results" / "recipe_choices.json").read_text()
        return capsys.readouterr().out, json.loads(kept)

    return call


@pytest.mark.slow
def test_choices_that_are_trained_are_only_scored(measure):
    printed, kept = measure()
    near, far = (one["frechet_distance"]["value"] for one in kept["choices"].values())
    assert near != far
    assert f"ema_decay: 0.5           {far:.2f} (" in printed
    assert kept["real_images"]["value"] > 0


@pytest.mark.slow
def test_a_folder_keeps_to_its_steps(measure):
    measure()
    with pytest.raises(SystemExit, match=r"has results with steps = 1500\. Give the same"):
        measure("--steps", "20")
