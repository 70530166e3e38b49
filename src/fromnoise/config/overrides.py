"""The grammar of settings: KEY=VALUE arguments, bare and dotted keys."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import yaml

from fromnoise.config.errors import ConfigError, did_you_mean, dotted_keys
from fromnoise.config.migration import check_not_renamed
from fromnoise.config.schema import Recipe, SamplingConfig, Training, is_list

MAX_VALUES = 100_000  # of a recipe
SectionName = Literal["training", "sampling"]


def parse_overrides(arguments: Sequence[str], section: SectionName) -> dict[str, Any]:
    """Return {dotted key: value} of KEY=VALUE arguments.

    A bare key is looked up in `section`: for `training`, `steps=500` is `training.steps`. For
    `sampling` so are the options of the samplers: `eta=0.5` is `sampling.sampler.eta`. Dotted keys
    reach every section. Raises ConfigError for a key that is unknown, renamed or repeated.
    """
    overrides: dict[str, Any] = {}
    for argument in arguments:
        name, value = parse_override(argument)
        key = full_key(name, section)
        check_not_renamed(key, value)
        if key in overrides:
            raise ConfigError(f"{key} is given twice. Give it once.")
        overrides[key] = value
    return overrides


def parse_override(text: str) -> tuple[str, Any]:
    """Return the key and the value, read as YAML: `steps=500` → ("steps", 500)."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not a setting. Write KEY=VALUE, as in steps=500.")
    try:
        return key, parse_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key} = {value!r} is not valid YAML. Quote the value.") from error


def parse_yaml(text: str) -> Any:
    """Return the content of YAML. Raises YAMLError for more values than any recipe has.

    Aliases in a file of a kilobyte can stand for billions of values.
    """
    try:
        tree = yaml.safe_load(text)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    left, count = [tree], 0
    while left and count < MAX_VALUES:
        value = left.pop()
        left += (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )
        count += 1
    if left:
        raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
    return tree


def full_key(key: str, section: SectionName) -> str:
    """Return the dotted key that a key means in the arguments of a command."""
    first = key.split(".")[0]
    if first in Recipe.model_fields:
        return key
    check_not_renamed(f"{section}.{key}")
    fields = {"training": Training, "sampling": SamplingConfig}[section].model_fields
    if first in fields:
        return f"{section}.{key}"
    known = list(fields)
    if section == "sampling":
        from fromnoise.config.components import options_of  # imports torch

        options = options_of("sampling.sampler")
        if key in options:
            return f"sampling.sampler.{key}"
        known += options
    everywhere = list(dotted_keys(Recipe))
    elsewhere = [dotted for dotted in everywhere if dotted.endswith(f".{key}")]
    similar = did_you_mean(key, everywhere if "." in key else known, elsewhere)
    raise ConfigError(
        f"unknown key {key}{similar} Keys of {section}: {', '.join(known)}. "
        f"Keys of other sections are dotted: {'.…, '.join(Recipe.model_fields)}.…"
    )


def with_key(tree: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of a nested dict with one key replaced; `name` grows into {name: name}."""
    first, *rest = keys
    if not rest:
        return {**tree, first: value}
    inner = tree.get(first) or {}
    inner = {"name": inner} if isinstance(inner, str) else inner
    if not isinstance(inner, dict):
        raise ConfigError(
            f"{first} is a value and has no key {'.'.join(rest)}. Set {first} itself."
        )
    return {**tree, first: with_key(inner, rest, value)}


def with_steps_of_list(sampling: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the keys of `sampling` without what a given one of `steps` and `timesteps` replaces.

    A given list of timesteps replaces the number of steps, and a given number of steps replaces a
    list of another length, by the usual rule.
    """
    sampling = dict(sampling)
    if is_list(times := sampling.get("timesteps")):
        if "timesteps" in given and "steps" not in given:
            sampling.pop("steps", None)
        elif "timesteps" not in given and "steps" in given and sampling["steps"] != len(times):
            del sampling["timesteps"]
    return sampling


def dotted(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as one level of dotted keys: {"a": {"b": 5}} → {"a.b": 5}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
