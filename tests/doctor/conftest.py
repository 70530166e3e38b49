"""What the tests of the doctor share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fromnoise.config.recipe import parse_recipe
from fromnoise.doctor.findings import CheckInputs
from fromnoise.doctor.network_cost import AttentionLayer, NetworkCost
from fromnoise.training.precision import Computation

COST = NetworkCost(
    parameters=10**6,
    multiply_adds=10**8,
    attention=(AttentionLayer(tokens=64, keys=64, heads=1, multiply_adds=10**6),),
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
def inputs(tiny: dict[str, Any]) -> Callable[..., CheckInputs]:
    """inputs({"training.steps": 7}, num_images=5): those of a sound training, with changes."""

    def build(
        overrides: dict[str, Any] | None = None, *, cost: dict[str, Any] | None = None, **known: Any
    ) -> CheckInputs:
        recipe = parse_recipe(tiny, "tiny", {**SOUND, **(overrides or {})})
        sound = CheckInputs(
            recipe=recipe,
            shape=(3, 64, 64),
            cost=replace(COST, **(cost or {})),
            device="cpu",
            num_images=50_000,
            memory_free=8 * 2**30,
            disk_free=20 * 10**9,
        )
        return replace(sound, **known)

    return build
