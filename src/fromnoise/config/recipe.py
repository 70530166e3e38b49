"""Load a recipe, everything that a run depends on, and check it before anything is built."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fromnoise.config.errors import ConfigError, did_you_mean, explain
from fromnoise.config.migration import check_not_renamed, migrate
from fromnoise.config.overrides import parse_yaml, with_key, with_steps_of_list
from fromnoise.config.schema import COUNTS, LENGTHS, Recipe

SHARES = {  # of a training in minutes or hours
    "training.log_every": 0.01,
    "training.preview_every": 0.1,
    "training.checkpoint_every": 0.1,
}
RECIPES = resources.files("fromnoise.config") / "recipes"


def shipped_recipes() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(p.name[:-5] for p in RECIPES.iterdir() if p.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """Return the YAML of a shipped recipe, comments included."""
    shipped = shipped_recipes()
    if name not in shipped:
        raise ConfigError(
            f"there is no recipe {name!r}{did_you_mean(name, shipped)} "
            f"Shipped recipes: {', '.join(shipped)}."
        )
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_head(name: str) -> dict[str, str]:
    """Return the comments at the top of a shipped recipe: about, command, time, score."""
    head: dict[str, str] = dict.fromkeys(("about", "command", "time", "score"), "")
    key = None
    for line in recipe_text(name).splitlines():
        if not line.startswith("#"):
            break
        first, colon, rest = line.lstrip("# ").partition(": ")
        key, text = (first, rest) if colon and first in head else (key, line.lstrip("# "))
        if key is not None:
            head[key] = f"{head[key]} {text}".strip()
    return head


def load_recipe(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a YAML file or a shipped recipe, override dotted keys, and check everything.

    Raises ConfigError with one line: the file, the key, what is allowed and the nearest known key.
    """
    tree, where = read_yaml(source)
    return parse_recipe(tree, where, overrides)


def parse_recipe(tree: Any, where: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Check a nested dict that came from `where`, as `load_recipe` does. Old keys are migrated."""
    recipe = match_schema(tree, where, overrides)
    from fromnoise.config.checks import check_recipe  # imports torch

    try:
        return check_recipe(recipe)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def read_yaml(source: str | Path) -> tuple[Any, str]:
    """Return the content of a YAML file or a shipped recipe, and what errors call it."""
    path = Path(source)
    is_file = path.suffix in {".yaml", ".yml"} or path.is_file()
    if is_file and not path.is_file():
        raise ConfigError(f"there is no recipe file {path.absolute()}. Check the path.")
    if path.is_dir() and str(source) not in shipped_recipes():
        raise ConfigError(
            f"{source} is a folder, not a recipe. To train on its images: fromnoise train folder "
            f"--data {source}."
        )
    where = str(path) if is_file else f"recipe {source}"
    try:
        text = path.read_text(encoding="utf-8") if is_file else recipe_text(str(source))
        return parse_yaml(text), where
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where} is not valid YAML: {' '.join(str(error).split()).rstrip('.')}. Correct it."
        ) from error


def _with_one_length(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe in which a length of the overrides replaces its own.

    In minutes or hours, the numbers of steps of a recipe of steps become shares: those of SHARES,
    or of its steps.
    """
    training = tree.get("training")
    if not isinstance(training, dict):
        return tree
    given = [key for key in LENGTHS if f"training.{key}" in overrides]
    lengths = {key: training[key] for key in LENGTHS if training.get(key)}
    dropped = [key for key in lengths if given and key not in given]
    tree = {**tree, "training": {k: v for k, v in training.items() if k not in dropped}}
    steps = lengths.get("steps")
    if all(tree["training"].get(key) is None for key in ("minutes", "hours")):
        return tree
    for name, keys in COUNTS.items():
        section = tree.get(name, {})
        for key in keys if isinstance(section, dict) else ():
            dotted, count = f"{name}.{key}", section.get(key)
            if dotted in overrides or isinstance(count, float) or (count and not dropped):
                continue
            if dotted in SHARES:
                section = {**section, key: SHARES[dotted]}
            elif type(steps) is int and type(count) is int and count > 0:
                section = {**section, key: min(count / steps, 1 - 1e-6)}
        if section:
            tree[name] = section
    return tree


def match_schema(tree: Any, where: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Check the keys and values of `parse_recipe`, but no component: that needs no torch."""
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{where} is not a recipe. Give the sections {', '.join(Recipe.model_fields)}."
        )
    tree, overrides = migrate(tree), overrides or {}
    for key, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        check_not_renamed(key, value)
        tree = with_key(tree, key.split("."), value)
    tree = _with_one_length(tree, overrides)
    if isinstance(sampling := tree.get("sampling"), dict):
        given = {key.removeprefix("sampling.") for key in overrides}
        tree = {**tree, "sampling": with_steps_of_list(sampling, given)}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, Recipe)}") from error
