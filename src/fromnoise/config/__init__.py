"""The recipe: its schema, its components by name, and its errors."""

from fromnoise.config.errors import ConfigError
from fromnoise.config.overrides import parse_override, parse_overrides
from fromnoise.config.recipe import (
    load_recipe,
    parse_recipe,
    recipe_head,
    recipe_text,
    shipped_recipes,
)
from fromnoise.config.schema import Recipe, SamplingConfig

__all__ = [
    "ConfigError",
    "Recipe",
    "SamplingConfig",
    "load_recipe",
    "parse_override",
    "parse_overrides",
    "parse_recipe",
    "recipe_head",
    "recipe_text",
    "shipped_recipes",
]
