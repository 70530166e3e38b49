"""Read the keys of earlier versions.

What was stored (recipes, model files, evaluation records) is mapped when it is read. An old key on
the command line is an error that names the new one.
"""

from collections.abc import Mapping
from typing import Any

from fromnoise.config.errors import ConfigError

RENAMED_KEYS = {  # section → old key → new key
    "sampling": {"spacing": "timesteps"},
    "training": {"times": "noise_levels"},
    "diffusion": {"metric": "loss"},
    "evaluation": {"judge": "classifier"},
}
RENAMED_VALUES = {  # section, key → old value → new value
    ("diffusion", "schedule"): {"given": "custom"},
    ("evaluation", "extractor"): {"judge": "classifier"},
}


def migrate(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe or a model's specification, a nested dict, with today's keys and values."""
    return {
        name: migrate_section(name, section) if isinstance(section, Mapping) else section
        for name, section in tree.items()
    }


def migrate_section(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return one section, such as the `sampling` of an evaluation record, with today's keys."""
    keys = RENAMED_KEYS.get(name, {})
    return {
        keys.get(key, key): _value(name, key, value)
        for key, value in section.items()
        if keys.get(key) not in section  # the new key wins
    }


def migrate_extractor(extractor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extractor of a record with today's name."""
    section = migrate_section("evaluation", {"extractor": extractor.get("name")})
    return {**extractor, "name": section["extractor"]}


def check_not_renamed(key: str, value: Any = None) -> None:
    """Raise ConfigError if a dotted key, or its value, has an old name."""
    section, _, name = key.partition(".")
    if new := RENAMED_KEYS.get(section, {}).get(name):
        raise ConfigError(f"{key} has a new name. Use {section}.{new}.")
    name = name.removesuffix(".name")
    if isinstance(value, str) and (new := RENAMED_VALUES.get((section, name), {}).get(value)):
        raise ConfigError(f"{key} = {value} has a new name. Use {key}={new}.")


def _value(section: str, key: str, value: Any) -> Any:
    values = RENAMED_VALUES.get((section, key))
    if not values:
        return value
    if isinstance(value, Mapping):
        name = value.get("name")
        return {**value, "name": values[name]} if name in list(values) else dict(value)
    return values.get(value, value) if isinstance(value, str) else value
