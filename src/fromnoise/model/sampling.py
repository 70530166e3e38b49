"""Resolve how to sample: the stored `SamplingConfig` of a model with overrides, checked once."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fromnoise.config.checks import check_sampling
from fromnoise.config.components import Component, check_component, check_option_owner
from fromnoise.config.errors import ConfigError, explain
from fromnoise.config.overrides import full_key, with_steps_of_list
from fromnoise.config.schema import FORMULA, RULE, SamplingConfig
from fromnoise.diffusion import NoiseSchedule, sampling_timesteps
from fromnoise.model.precision import Precision
from fromnoise.model.spec import ModelSpec

SHAPES_OF_GUIDANCE = ("guidance_interval", "guidance_rescale")  # no effect where s = 1
logger = logging.getLogger("fromnoise")


def resolve_sampling(
    spec: ModelSpec,
    schedule: NoiseSchedule,
    auto_precision: Precision,
    conditional: bool | None,
    overrides: Mapping[str, Any],
) -> SamplingConfig:
    """Return the stored sampling settings of a model with overrides, complete and checked.

    overrides: fields of `SamplingConfig`, and options of the sampler (`eta` of ddim, `variance` of
    ddpm). None leaves the stored value. conditional: whether labels are requested; None if unknown.
    If False, guidance is off. auto_precision: replaces the precision `auto`.

    Raises ConfigError for unknown or foreign keys, values out of range, and settings without
    effect: guidance of an unconditional request, a shape of guidance at s = 1, an interval that no
    timestep lies in.
    """
    overrides = {k: v for k, v in overrides.items() if v is not None or k == "guidance_interval"}
    for key in overrides:
        if not full_key(key, "sampling").startswith("sampling."):
            raise ConfigError(f"{key} has no effect on sampling. Remove it.")
    stored, T = spec.sampling, spec.diffusion.T
    fields = {key: value for key, value in overrides.items() if key in SamplingConfig.model_fields}
    options = {key: value for key, value in overrides.items() if key not in fields}
    if isinstance(sampler := fields.get("sampler"), dict):  # options alone are of the stored one
        fields["sampler"] = {"name": stored.sampler.name, **sampler}
    if isinstance(steps := fields.get("steps"), int) and not 1 <= steps <= T:
        raise ConfigError(f"steps = {steps} is out of range. Use 1 to T = {T}.")
    changes = {"steps": min(stored.steps, T), "sampler": stored.sampler.name, **fields}
    tree = with_steps_of_list({**stored.model_dump(), **changes}, fields)
    try:
        config = SamplingConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, SamplingConfig, "sampling")) from error
    name, own = config.sampler.name, config.sampler.options
    inherited = stored.sampler.options if name == stored.sampler.name else {}
    check_option_owner(name, options)
    component = Component(name=name, **{**inherited, **own, **options})
    precision = auto_precision if config.precision == "auto" else config.precision
    config = config.model_copy(
        update={"sampler": check_component(component, "sampling.sampler"), "precision": precision}
    )
    check_sampling(spec.model_copy(update={"sampling": config}), labels=True)
    if "timesteps" not in tree:
        had = f"the model lists {stored.steps} timesteps"
        logger.info("%s: these %d are %s. Set timesteps for others.", had, config.steps, RULE)
    guiding = [key for key in ("guidance", *SHAPES_OF_GUIDANCE) if key in fields]
    shapes = [key for key in SHAPES_OF_GUIDANCE if fields.get(key)]
    span, times = config.guidance_interval, visited_timesteps(config, schedule)
    if guiding and not spec.label_names:
        why = f"this model is unconditional, and {FORMULA} needs ε_c. Remove {guiding[0]}."
    elif guiding and conditional is False:
        why = f"{FORMULA} needs ε_c. Give labels (--class, --labels, cond), not a composition, "
        why += f"or remove {guiding[0]}."
    elif shapes and config.guidance == 1:
        guiding, why = shapes, f"guidance is off, s = 1 in {FORMULA}. Set guidance too."
    elif span and "guidance_interval" in shapes and not any(span[0] <= t <= span[1] for t in times):
        guiding = ["guidance_interval = {}-{}".format(*span)]
        why = f"none of the {len(times)} timesteps lies in it. Widen it, or take more steps."
    else:
        return with_guidance(config, 1.0 if conditional is False else config.guidance)
    raise ConfigError(f"{guiding[0]} has no effect: {why}")


def with_guidance(config: SamplingConfig, scale: float) -> SamplingConfig:
    """Return the settings with another scale s; at s = 1 guidance has no shape."""
    shape = {} if scale != 1 else {"guidance_interval": None, "guidance_rescale": 0.0}
    return config.model_copy(update={"guidance": scale, **shape})


def visited_timesteps(config: SamplingConfig, schedule: NoiseSchedule) -> list[int]:
    """Return the falling times of {1..T} that the sampler visits."""
    return sampling_timesteps(schedule, config.steps, config.timesteps)
