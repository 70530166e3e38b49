"""What the tests of training share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fromnoise.config import parse_recipe
from fromnoise.model import build_denoiser
from fromnoise.model_file import ModelSpec
from fromnoise.training.findings import Facts
from fromnoise.training.precision import Computation
from fromnoise.training.probe import Attended, Measured
from fromnoise.training.state import TrainingState

MEASURED = Measured(
    parameters=10**6,
    multiply_adds=10**8,
    attention=(Attended(tokens=64, keys=64, heads=1, multiply_adds=10**6),),
    weight_bytes=4 * 10**6,
    image_bytes=10**6,
    step_seconds=0.1,
    images=128,
    computation=Computation("fp32", False),
)
SOUND = {
    "training.steps": 10_000,
    "training.batch_size": 128,
    "training.ema_decay": 0.999,
    "training.checkpoint_every": 1000,
    "data.flip": False,
}


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


@pytest.fixture
def facts(tiny: dict[str, Any]) -> Callable[..., Facts]:
    """facts({"training.steps": 7}, num_images=5): those of a sound training, with changes."""

    def build(
        overrides: dict[str, Any] | None = None,
        *,
        measured: dict[str, Any] | None = None,
        **known: Any,
    ) -> Facts:
        recipe = parse_recipe(tiny, "tiny", {**SOUND, **(overrides or {})})
        sound = Facts(
            recipe=recipe,
            shape=(3, 64, 64),
            measured=replace(MEASURED, **(measured or {})),
            device="cpu",
            num_images=50_000,
            memory_free=8 * 2**30,
            disk_free=20 * 10**9,
        )
        return replace(sound, **known)

    return build
