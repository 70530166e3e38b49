"""How a model is sampled from: what it has stored, changed as asked, and checked."""

import math
from typing import Any, Literal

from pydantic import ValidationError

from fromnoise.config.components import Component, check_option_owner, checked
from fromnoise.config.errors import ConfigError, explain
from fromnoise.config.recipe import Sampling, check_sampling
from fromnoise.diffusion import Denoise, clamp_x0, dynamic_threshold
from fromnoise.model.spec import ModelSpec


def sampling_plan(
    spec: ModelSpec,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    timesteps: str | None = None,
    clamp: bool | Literal["dynamic"] | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[int, int] | None = None,
    guidance_rescale: float | None = None,
    **options: Any,
) -> Sampling:
    """The stored way of sampling with these changes, checked.

    clamp: x̂_0 to the range of images (True), or by `dynamic_threshold`, or not at all.
    guidance: s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off. guidance_interval: (first, last) t that
    are guided. guidance_rescale: φ in [0, 1], see `diffusion.guidance.rescaled`.
    options: the sampler's own (`eta` for ddim, `variance` for ddpm).
    Raises ValueError for an unknown sampler, timesteps or option, steps outside 1..T, and
    guidance that is negative or asked of a model without labels.
    """
    stored, T = spec.sampling, spec.diffusion.T
    asked = (guidance, guidance_interval, guidance_rescale)
    if any(value is not None for value in asked) and not spec.label_names:
        raise ValueError(
            "this model was trained without labels, so there is nothing to guide it by: "
            "ε = ε_∅ + s·(ε_c − ε_∅), s = guidance, needs ε_c"
        )
    if guidance is not None and not 0 <= guidance < math.inf:
        raise ValueError(
            f"guidance must be at least 0, not {guidance:g}: it is s in "
            "ε = ε_∅ + s·(ε_c − ε_∅), where 1 is off"
        )
    if steps is not None and not 1 <= steps <= T:
        raise ValueError(f"steps must be 1..{T}, not {steps}")
    same = sampler is None or sampler == stored.sampler.name
    check_option_owner(sampler or stored.sampler.name, options)
    inherited = stored.sampler.options if same else {}
    component = Component(name=sampler or stored.sampler.name, **{**inherited, **options})
    changes = {
        "sampler": checked(component, "sampling.sampler").model_dump(),
        "steps": min(steps or stored.steps, T),
        "timesteps": timesteps,
        "clamp": clamp,
        "guidance": guidance,
        "guidance_interval": guidance_interval,
        "guidance_rescale": guidance_rescale,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    try:
        plan = Sampling.model_validate({**stored.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(explain(error, Sampling, "sampling")) from error
    labels = bool(spec.label_names)
    check_sampling(spec.model_copy(update={"sampling": plan}), labels=labels)
    return plan


def clamped(denoise: Denoise, plan: Sampling, spec: ModelSpec) -> Denoise:
    """The denoiser with x̂_0 kept in range in the way that the plan says."""
    if plan.clamp == "dynamic":
        return dynamic_threshold(denoise, *spec.data_range)
    return clamp_x0(denoise, *spec.data_range) if plan.clamp else denoise
