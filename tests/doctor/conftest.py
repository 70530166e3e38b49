"""What the tests of the doctor share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fromnoise.config.recipe import parse_recipe
from fromnoise.doctor.checks import Facts
from fromnoise.doctor.cost import Attention, Cost
from fromnoise.model.spec import ModelSpec
from fromnoise.training.precision import Computation

COST = Cost(
    parameters=10**6,
    weight_bytes=4 * 10**6,
    multiply_adds=10**8,
    attention=(Attention(tokens=64, keys=64, heads=1, multiply_adds=10**6),),
    image_bytes=10**6,
    step_seconds=0.1,
)
SOUND = {
    "training.steps": 10_000,
    "training.batch_size": 128,
    "training.ema_decay": 0.999,
    "training.checkpoint_every": 1000,
    "data.flip": False,
}


@pytest.fixture
def facts(tiny: dict[str, Any]) -> Callable[..., Facts]:
    """facts({"training.steps": 7}, num_images=5): those of a sound training, with changes."""

    def build(
        overrides: dict[str, Any] | None = None,
        *,
        cost: dict[str, Any] | None = None,
        label_names: tuple[str, ...] = (),
        **known: Any,
    ) -> Facts:
        recipe = parse_recipe(tiny, "tiny", {**SOUND, **(overrides or {})})
        spec = ModelSpec(
            network=recipe.network,
            diffusion=recipe.diffusion,
            sampling=recipe.sampling,
            channels=3,
            size=(64, 64),
            label_names=label_names,
        )
        sound = Facts(
            recipe=recipe,
            spec=spec,
            cost=COST._replace(**(cost or {})),
            computation=Computation("fp32", False),
            num_images=50_000,
            device="cpu",
            memory_free=8 * 2**30,
            disk_free=20 * 10**9,
        )
        return replace(sound, **known)

    return build
