"""The benchmarks of the data feed and of checkpoints, on little."""

import sys

import checkpoint_cost
import data_feed
import numpy as np
import pytest
from PIL import Image
from race import Contestant, race

from fromnoise.config.recipe import parse_recipe
from fromnoise.data import open_images


@pytest.fixture
def pictures(tmp_path):
    """Seven of them."""
    data_feed.write_pictures(tmp_path / "pictures", 0, 7)
    return tmp_path / "pictures"


def test_the_pictures_are_what_they_are_said_to_be(pictures, tmp_path):
    files = sorted((pictures / "all").iterdir())
    images = [np.asarray(Image.open(file)) for file in files]
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert len({image.tobytes() for image in images}) == 7
    assert all(6_000 < file.stat().st_size < 12_000 for file in files)
    data_feed.write_pictures(tmp_path / "again", 2, 3)
    again = sorted((tmp_path / "again" / "all").iterdir())
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files[2:5]]


def test_pictures_that_are_there_are_left_as_they_are(pictures):
    files = sorted((pictures / "all").iterdir())
    files[0].write_bytes(b"mine")
    files[3].unlink()
    data_feed.write_pictures(pictures, 0, 7)
    assert files[0].read_bytes() == b"mine"
    assert files[3].stat().st_size > 6_000


@pytest.mark.slow
def test_ours_feeds_an_epoch_a_round(pictures, tmp_path):
    options = {"folder": str(pictures), "cache": str(tmp_path / "cache"), "batch_size": 2}
    assert len(open_images("folder", pictures, cache=tmp_path / "cache", channels=3)) == 7
    (one,) = race([Contestant("fromnoise", "ours:data_feed", options)], rounds=2).values()
    assert one.images == 6  # of 7: whole batches
    assert min(one.rates) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")
def test_theirs_feeds_as_many_as_it_says(pictures):
    options = {"folder": str(pictures), "side": 64, "batch_size": 2, "images": 5, "workers": 1}
    runner = Contestant("torchvision", "peers:torchvision_feed", options)  # in our environment
    (one,) = race([runner], rounds=2).values()
    assert one.images == 5


def test_checkpoints_and_steps_are_measured(tiny):
    recipe = parse_recipe(tiny, "tiny")
    found = checkpoint_cost.measure(recipe, 4, 1, 8, repeats=2)
    assert len(found["step"]) == len(found["checkpoint"]) == 2
    assert min([*found["step"], *found["checkpoint"], *found["preview"]]) > 0
    assert found["preview_every"] == recipe.training.preview_every
    assert found["how"] == "fp32, channels first"
    assert 0.05 < found["checkpoint_mib"] < 1
