"""What the tests of training share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fromnoise.config.recipe import parse_recipe
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState


@pytest.fixture
def start(tiny: dict[str, Any]) -> Callable[..., tuple[TrainingState, ModelSpec]]:
    """start({"network.dropout": 0}): the tiny recipe before its first step, no layer at zero."""

    def build(overrides: dict[str, Any]) -> tuple[TrainingState, ModelSpec]:
        recipe = parse_recipe(tiny, "tiny", overrides)
        spec = ModelSpec(
            network=recipe.network,
            diffusion=recipe.diffusion,
            sampling=recipe.sampling,
            channels=1,
            size=(8, 8),
        )
        torch.manual_seed(0)
        denoiser = build_denoiser(spec)
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return TrainingState.start(denoiser, recipe.training, Computation("fp32", False)), spec

    return build
