"""Read the keys of earlier versions.

What was stored (recipes, model files, evaluation records) is mapped when it is read. An old key on
the command line is an error that names the new one.
"""

from collections.abc import Mapping
from typing import Any

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import least_divisor

RENAMED_KEYS = {  # old key → new key of the same section
    "sampling.spacing": "timesteps",
    "training.times": "noise_levels",
    "training.accumulation": "parts",
    "training.tensorboard": "log_to",
    "diffusion.metric": "loss",
    "evaluation.judge": "classifier",
}
RENAMED_VALUES = {  # key, old value → new value
    ("diffusion.schedule", "given"): "custom",
    ("evaluation.extractor", "judge"): "classifier",
}


def migrate(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe or a model's specification (a nested dict) with current keys and values."""
    return {
        name: migrate_section(name, section) if isinstance(section, Mapping) else section
        for name, section in tree.items()
    }


def migrate_section(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return one section, such as the `sampling` of an evaluation record, with the current keys."""
    migrated = {}
    for key, value in section.items():
        new = RENAMED_KEYS.get(f"{name}.{key}")
        if new is None or new not in section:  # the new key wins
            migrated[new or key] = _value(f"{name}.{key}", value)
    size, parts = section.get("batch_size"), section.get("accumulation")
    if isinstance(size, int) and isinstance(parts, int) and 1 <= parts <= size:
        migrated["parts"] = least_divisor(size, parts)  # the old parts could have any size
    if type(section.get("tensorboard")) is bool and name == "training":
        migrated["log_to"] = ["tensorboard"] * section["tensorboard"]
    return migrated


def migrate_extractor(extractor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extractor of a record with its current name."""
    return _value("evaluation.extractor", {"name": None, **extractor})


def check_not_renamed(key: str, value: Any = None) -> None:
    """Raise ConfigError if a dotted key, or its value, has an old name."""
    if new := RENAMED_KEYS.get(key):
        raise ConfigError(f"{key} has a new name. Use {key.partition('.')[0]}.{new}.")
    new = _value(key.removesuffix(".name"), value)
    if isinstance(value, str) and new != value:
        raise ConfigError(f"{key} = {value} has a new name. Use {key}={new}.")


def _value(key: str, value: Any) -> Any:
    """Return a value, or a component with its options, under the current name."""
    if isinstance(value, Mapping):
        return {**value, "name": _value(key, value["name"])} if "name" in value else dict(value)
    return RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value
