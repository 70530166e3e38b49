"""Every shipped recipe, with a smaller network, trains on pictures made here and is sampled."""

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise.config.recipe import load_recipe, recipe_head, shipped_recipes
from fromnoise.data import write_shapes
from fromnoise.networks import NETWORKS
from fromnoise.training.log import read_log

PARAMETERS = {  # of the network as the recipe has it, without the layers of a condition
    "cifar10-linear-attention": 35_711_491,
    "cifar10-paper": 35_746_307,
    "cifar10-warmup": 82_958_979,
    "folder-64": 10_188_947,
}
SMALLER = {  # the same network, narrower
    "ddpm": {"channels": 8, "groups": 4, "num_res_blocks": 1},
    "dense_attention": {"channels": [8, 8, 8, 8], "mid_channels": [8, 8], "out_width": 8},
    "stacked": {"channels": [8, 16, 32, 64, 64, 48], "groups": 4, "heads": 2},
    "linear_attention": {"dim": 8, "multipliers": [1, 2]},
    "context": {"features": 8},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes of noise as folders of PNGs, and a rendered set in the layout of i-CLEVR."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(5):
            pixels = rng.integers(0, 256, (30, 34, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    shapes = tmp_path_factory.mktemp("rendered") / "shapes"
    write_shapes(shapes, train=6, test=2, size=32, workers=1)
    return {"folder": folder, "iclevr": shapes}


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_recipes())
def test_trains_three_steps_and_samples(name, pictures, tmp_path):
    recipe = load_recipe(name)
    kind = "iclevr" if recipe.data.source == "iclevr" else "folder"
    small = SMALLER[recipe.network.name]
    overrides = {
        **{f"network.{key}": value for key, value in small.items()},
        "data.size": 32,
        "data.holdout": None,
        "training.steps": 3,
        "training.batch_size": 4,
        "training.warmup_steps": 1,
        "training.preview_images": 2,
        "training.precision": "fp32",
        "training.channels_last": False,
        "sampling.steps": 2,
    }
    run = fromnoise.train(name, out=tmp_path / "run", data=pictures[kind], overrides=overrides)
    assert run.finished
    last = [row for row in read_log(run.folder) if "loss" in row][-1]
    assert last["step"] == 3
    assert 0 < last["loss"] < 10
    model = run.model()
    names = model.spec.label_names
    assert len(names) == ({"folder": 2, "iclevr": 24}[kind] if recipe.data.labels else 0)
    cond = torch.ones(2, len(names)) if names else None
    assert model.sample([0, 1], cond=cond).shape == (2, model.spec.channels, 32, 32)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_has_the_network_of_its_system(name, count):
    recipe = load_recipe(name)
    with torch.device("meta"):
        network = NETWORKS[recipe.network.name](image_channels=3, **recipe.network.options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_says_its_time_and_its_score():
    for name in shipped_recipes():
        head = recipe_head(name)
        assert len(head["time"]) > 5, name
        assert len(head["score"]) > 5, name
        assert not {"TIME", "SCORE"} & {head["time"], head["score"]}, name
