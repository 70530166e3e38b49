"""The recipe `folder` fits itself to the images, the time and the machine."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import ImageSet, open_images
from fromnoise.config.recipe import load_recipe
from fromnoise.data.mirror import OCCURS, mirror_ratio
from fromnoise.training.choices import ROWS, choices_for
from fromnoise.training.run import resolve_recipe

RNG = np.random.default_rng(5)


def images_of(array: np.ndarray) -> ImageSet:
    return ImageSet(array, None, (), "0" * 64, (), "npz")


@pytest.fixture
def pictures(tmp_path):
    """A folder of `count` pictures of one size."""

    def make(count: int = 4, size: int = 80):
        folder = tmp_path / f"{count}-{size}"
        folder.mkdir()
        for i in range(count):
            pixels = RNG.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        return folder

    return make


def chosen(recipe, images) -> dict:
    return {key: value for key, value, _ in choices_for(recipe, images)}


def test_mirrored_digits_are_far_from_digits():
    assert mirror_ratio(open_images("digits")) > 1.5


def test_mirrored_images_that_occur_are_near():
    some = RNG.integers(0, 256, (100, 1, 16, 16), dtype=np.uint8)
    assert mirror_ratio(images_of(some)) < OCCURS  # noise has no left and right
    assert mirror_ratio(images_of(np.concatenate([some, some[..., ::-1]]))) == 0
    symmetric = np.concatenate([some, some[..., ::-1]], axis=3)
    assert mirror_ratio(images_of(symmetric)) == pytest.approx(1, abs=1e-4)


def test_images_that_all_point_to_the_left_are_not_flipped(pictures):
    ramp = np.linspace(0, 200, 16).astype(np.uint8)
    noise = RNG.integers(0, 40, (200, 3, 16, 16), dtype=np.uint8)
    data = images_of(noise + ramp)
    recipe = load_recipe("folder", {"data.path": str(pictures())})
    assert chosen(recipe, data)["data.flip"] is False
    assert chosen(recipe, images_of(noise))["data.flip"] is True


def test_the_time_of_all_cores_decides_between_32_and_64_pixels(pictures, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    data = images_of(RNG.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8))
    sizes = {}
    for minutes in (30, 59, 60, 600):
        overrides = {"data.path": str(pictures(4, 80 + minutes)), "training.minutes": minutes}
        found = chosen(load_recipe("folder", overrides), data)
        sizes[minutes] = found["data.size"], found["network.patch"]
    assert sizes == {30: (32, 2), 59: (32, 2), 60: (64, 4), 600: (64, 4)}


def test_small_pictures_keep_their_size_and_few_are_all_trained_on(pictures):
    recipe = load_recipe("folder", {"data.path": str(pictures(4, 16))})
    data = images_of(RNG.integers(0, 256, (99, 3, 16, 16), dtype=np.uint8))
    found = chosen(recipe, data)
    assert found["data.size"] == 16
    assert found["data.holdout"] is None
    more = images_of(np.concatenate([data.images, data.images[:1]]))
    assert chosen(recipe, more)["data.holdout"] == "auto"


def test_a_recipe_of_one_s_own_is_not_fitted(pictures, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(load_recipe("folder", {"data.size": 48}).to_yaml())
    resolved, _ = resolve_recipe(file, None, pictures(), None)
    assert resolved.data.size == (48, 48)
    assert resolved.data.holdout == "auto"


def test_overrides_win_and_every_choice_is_logged(pictures, caplog):
    overrides = {"data.size": 24, "training.steps": 5, "network": "stacked"}
    with caplog.at_level(logging.INFO, "fromnoise"):
        resolved, _ = resolve_recipe("folder", None, pictures(), overrides)
    assert resolved.data.size == (24, 24)
    assert resolved.data.holdout is None
    assert resolved.network.name == "stacked"
    assert resolved.network.options["patch"] == 1  # its default
    lines = [line for line in caplog.messages if " = " in line]
    assert "data.holdout = null: 4 images" in lines
    assert not [line for line in lines if line.startswith(("data.size", "network"))]


def test_every_row_is_a_recipe_and_some_row_fits_every_machine(pictures):
    for row in ROWS:
        load_recipe("folder", {**row.settings, "data.size": row.size})
    assert [row.device for row in ROWS if row.core_minutes == 0] == ["cuda", "cpu"]
