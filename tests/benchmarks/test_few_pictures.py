"""Training on few images: what is unseen, what an arm trains, and its figures."""

import inspect
from argparse import Namespace
from pathlib import Path

import few_pictures
import fromnoise_recipe
import numpy as np
import pytest
from few_pictures import SEED, Arm, figures_of, split, stages_of

from fromnoise.classifier.classifier import load_classifier
from fromnoise.evaluation.features import classifier_features
from fromnoise.evaluation.images import RealImages, reference_of

RNG = np.random.default_rng(1)  # the garments are of 0


def given(data, **changed):
    options = {"data": data, "out": Path("out"), "recipe": "fashion-mnist", "minutes": 10}
    return Namespace(**options | {"size": None, "unseen": 0.25, "num": 8, "steps": 10} | changed)


def test_the_test_split_is_unseen(garments):
    images, unseen = split(given(garments))
    assert (len(images), len(unseen)) == (60, 40)
    kept = {image.tobytes() for image in images}
    assert not any(image.tobytes() in kept for image in unseen.images)


def test_data_without_a_test_split_loses_a_share(tmp_path):
    np.save(tmp_path / "images.npy", RNG.integers(0, 256, (40, 8, 8), np.uint8))
    images, unseen = split(given(tmp_path / "images.npy"))
    assert (len(images), len(unseen)) == (30, 10)
    assert len({image.tobytes() for image in (*images, *unseen.images)}) == 40


def test_an_arm_trains_and_draws_at_two_checkpoints():
    stages = stages_of(Arm(100, 0.15, 1), Path("images.npy"), given("data"))
    assert [stage.name for stage in stages] == ["training", "newest", "best"]
    training, *drawings = (stage.contestant.options for stage in stages)
    assert training["overrides"]["training.augment"] == 0.15
    assert training["overrides"]["training.seed"] == SEED + 1
    assert drawings[1]["trained"].endswith("out/100-0.15-1/training/checkpoints/best")
    inspect.signature(fromnoise_recipe.train).bind(folder="", **training)
    for drawing in drawings:
        inspect.signature(fromnoise_recipe.draw).bind(folder="", **drawing)


@pytest.mark.slow
def test_copies_are_counted_and_real_images_are_near(garments, classifier):
    images, unseen = split(given(garments))
    judge = load_classifier(classifier)
    reference = reference_of(RealImages(unseen, "unseen"), classifier_features(judge))
    copies = figures_of(images[:40], images, np.asarray(unseen.images), reference, judge)
    others = RNG.integers(0, 256, (40, 1, 28, 28), np.uint8)
    fresh = figures_of(others, images, np.asarray(unseen.images), reference, judge)
    assert copies["copies"] == 1
    assert fresh["copies"] == 0
    assert set(copies["frechet_distance"]) == {"value", "low", "high"}
    assert few_pictures.CONTROL >= 1000
