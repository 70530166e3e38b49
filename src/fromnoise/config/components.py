"""Components: what a recipe chooses by name, with options.

A `Component` names one function or class of a dict such as SAMPLERS. Its options are the
keyword-only parameters of that callable, checked against its signature: a new one needs no schema.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError, create_model

from fromnoise.config.errors import ConfigError, explain, unknown_name
from fromnoise.config.overrides import dotted
from fromnoise.config.schema import Component, Section
from fromnoise.diffusion import NOISE_LEVELS, OWN, SAMPLERS, SCHEDULES, WEIGHTINGS
from fromnoise.networks import NETWORKS

COMPONENTS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "network": NETWORKS,
    "diffusion.schedule": SCHEDULES,
    "diffusion.prediction": OWN,
    "diffusion.weighting": WEIGHTINGS,
    "training.noise_levels": NOISE_LEVELS,
    "sampling.sampler": SAMPLERS,
}
# set by the data, training, diffusion and seed
NOT_OPTIONS = {"image_channels", "cond_dim", "augment_dim", "T", "noise"}


def with_checked_components(section: Any) -> Any:
    """Return a recipe or a model's specification with checked and completed components."""
    for key in COMPONENTS:
        inside, _, name = key.rpartition(".")
        if inside and not hasattr(section, inside):
            continue  # a model's specification has no training
        part = getattr(section, inside) if inside else section
        component = check_component(getattr(part, name), key)
        part = part.model_copy(update={name: component})
        section = section.model_copy(update={inside: part}) if inside else part
    return section


def check_component(component: Component, key: str) -> Component:
    """Return the component with its options checked and its defaults written out.

    key: an entry of COMPONENTS. Raises ConfigError.
    """
    known = COMPONENTS[key]
    if component.name not in known:
        raise ConfigError(f"{key} = {unknown_name(component.name, known)}")
    schema = _schema(known[component.name])
    try:
        options = schema.model_validate(component.options)
    except ValidationError as error:
        raise ConfigError(explain(error, schema, key)) from error
    return Component(name=component.name, **options.model_dump(mode="json"))


def dotted_components(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested dict as dotted keys, a component that is only a name under `KEY.name` too."""
    return {
        f"{key}.name" if key in COMPONENTS else key: value for key, value in dotted(tree).items()
    }


def options_of(key: str) -> dict[str, list[str]]:
    """Return every option of the components of a key, and the names of those that have it."""
    owners: dict[str, list[str]] = {}
    for name, target in COMPONENTS[key].items():
        for option in _schema(target).model_fields:
            owners.setdefault(option, []).append(name)
    return owners


def check_option_owner(name: str, options: Iterable[str], key: str = "sampling.sampler") -> None:
    """Raise ConfigError for an option that other components of a key have, and `name` lacks."""
    owners = options_of(key)
    for option in options:
        if name in COMPONENTS[key] and option in owners and name not in owners[option]:
            own = ", ".join(o for o, names in owners.items() if name in names)
            raise ConfigError(
                f"{option} is an option of {', '.join(owners[option])}, not of {name}. "
                + (f"Options of {name}: {own}." if own else f"{name} has no options.")
            )


def _schema(target: Callable[..., Any]) -> type[BaseModel]:
    """Return the keyword-only parameters of a function or class as a pydantic model."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(target).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in NOT_OPTIONS
    }
    return create_model(target.__name__, __base__=Section, **fields)
