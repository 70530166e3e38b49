"""What a recipe chooses by name: schedules, weightings, samplers and networks, with their options.

A `Component` names one function or class; its options are checked against that callable's own
signature, so that adding one needs no schema.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from fromnoise.config.errors import ConfigError, explain, unknown
from fromnoise.diffusion import SAMPLERS, SCHEDULES, WEIGHTINGS
from fromnoise.networks import NETWORKS

COMPONENTS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "network": NETWORKS,
    "diffusion.schedule": SCHEDULES,
    "diffusion.weighting": WEIGHTINGS,
    "sampling.sampler": SAMPLERS,
}
NOT_OPTIONS = {"image_channels", "cond_dim", "T", "noise"}  # given by the data, diffusion, seed


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(BaseModel):
    """One named callable and its options, written `name` or `{name: …, option: …}`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


def with_checked_components(section: Any, where: str = "") -> Any:
    """A recipe or a model's specification with the options of its components checked, completed."""

    def with_component(part: Any, name: str, key: str) -> Any:
        return part.model_copy(update={name: checked(getattr(part, name), key, where)})

    section = with_component(section, "network", "network")
    diffusion = with_component(section.diffusion, "schedule", "diffusion.schedule")
    diffusion = with_component(diffusion, "weighting", "diffusion.weighting")
    sampling = with_component(section.sampling, "sampler", "sampling.sampler")
    return section.model_copy(update={"diffusion": diffusion, "sampling": sampling})


def checked(component: Component, key: str, where: str = "") -> Component:
    """The component with every option of its callable checked, and its defaults written out.

    key: an entry of COMPONENTS. Raises ConfigError.
    """
    prefix = f"{where}: " if where else ""
    known = COMPONENTS[key]
    if component.name not in known:
        raise ConfigError(f"{prefix}{key} {unknown(component.name, known)}")
    target = known[component.name]
    schema = _schema(target)
    try:
        options = schema.model_validate(component.options)
    except ValidationError as error:
        raise ConfigError(f"{prefix}{explain(error, schema, key)}") from error
    return Component(name=component.name, **options.model_dump(mode="json"))


def check_option_owner(sampler: str, options: Iterable[str]) -> None:
    """Raise ConfigError for an option that another sampler has, and this one has not."""
    takes = {name: list(_schema(target).model_fields) for name, target in SAMPLERS.items()}
    for option in options:
        owners = [name for name, known in takes.items() if option in known]
        if owners and sampler in takes and sampler not in owners:
            known = ", ".join(takes[sampler]) or "no options"
            raise ConfigError(f"{option} belongs to {', '.join(owners)}; {sampler} takes {known}")


def _schema(target: Callable[..., Any]) -> type[BaseModel]:
    """The keyword-only parameters of a function or class as a pydantic model."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(target).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in NOT_OPTIONS
    }
    return create_model(target.__name__, __base__=Section, **fields)
