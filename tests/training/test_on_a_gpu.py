"""What crosses between the CPU and a GPU in a training step, `meta` in the place of the GPU."""

import pytest
import torch

from fromnoise.config.recipe import parse_recipe
from fromnoise.data import open_images
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec
from fromnoise.training import step as step_module
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState
from fromnoise.training.step import sample_batch, train_step

GPU = torch.device("meta")
IMAGES, EACH = "cpu → meta: (8, 1, 8, 8)", "cpu → meta: (8,)"


@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({}, [IMAGES, IMAGES, EACH, EACH]),  # x_0, ε, t, the keys of dropout
        ({"training.optimizer": "muon", "training.noise_device": "device"}, [IMAGES, EACH, EACH]),
        (
            {
                "training.noise_levels": "normal",
                "network.learned_variance": True,
                "diffusion.vlb_weight": 0.001,
                "training.ema_lengths": [0.1],
            },
            [IMAGES, IMAGES, EACH, EACH, EACH],  # and the factor of the bound
        ),
        ({"training.parts": 2}, 2 * [*["cpu → meta: (4, 1, 8, 8)"] * 2, *["cpu → meta: (4,)"] * 2]),
    ],
    ids=["adam", "muon", "bound", "parts"],
)
def test_each_part_of_a_batch_is_copied_once_and_the_cpu_waits_once(
    tiny, crossings, monkeypatch, options, copies
):
    recipe = parse_recipe(tiny, "tiny", options)
    spec = ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=1,
        size=(8, 8),
    )
    denoiser = build_denoiser(spec).to(GPU)
    state = TrainingState.start(denoiser, recipe.training, Computation("fp32", False))
    for group in state.optimizer.param_groups:  # its fused kernel knows no such device
        group.update(fused=False, foreach=True)
    monkeypatch.setattr(  # nor does this
        step_module, "autocast", lambda *_: torch.autocast("cpu", enabled=False)
    )
    objective, data = recipe.diffusion.objective(), open_images("digits")
    for step in range(2):  # in the first, the tables are copied
        batch = sample_batch(recipe, data, step, device=GPU)
        with crossings() as record:
            losses, norm = train_step(state, objective, batch, recipe.training)
    assert (len(losses), norm, state.updates) == (8, 1, 2)
    assert record.found == [*copies, "meta → cpu: (9,)"]
