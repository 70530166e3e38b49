"""The recipe: its schema, its components by name, and what is wrong with one."""

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import (
    Recipe,
    load_recipe,
    parse_override,
    parse_recipe,
    recipe_head,
    recipe_text,
    shipped_recipes,
)

__all__ = [
    "ConfigError",
    "Recipe",
    "load_recipe",
    "parse_override",
    "parse_recipe",
    "recipe_head",
    "recipe_text",
    "shipped_recipes",
]
