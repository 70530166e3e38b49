"""Load a recipe, everything that a run depends on, and check it before anything is built."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError, did_you_mean, explain, unknown_name
from fromnoise.config.migration import check_not_renamed, migrate
from fromnoise.config.overrides import with_key
from fromnoise.config.schema import Recipe
from fromnoise.data import SOURCES
from fromnoise.diffusion import LOSSES, TIMESTEPS, VLB, check_prediction

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
    path = Path(source)
    is_file = path.suffix in {".yaml", ".yml"} or path.is_file()
    if is_file and not path.is_file():
        raise ConfigError(f"there is no recipe file {path.absolute()}. Check the path.")
    where = str(path) if is_file else f"recipe {source}"
    try:
        text = path.read_text(encoding="utf-8") if is_file else recipe_text(str(source))
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_recipe(tree, where, overrides)


def parse_recipe(tree: Any, where: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Check a nested dict that came from `where`, as `load_recipe` does. Old keys are migrated."""
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{where} is not a recipe. Give the sections {', '.join(Recipe.model_fields)}."
        )
    tree, overrides = migrate(tree), overrides or {}
    for key, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        check_not_renamed(key, value)
        tree = with_key(tree, key.split("."), value)
    for key, other in (("steps", "epochs"), ("epochs", "steps")):  # the one replaces the other
        both = f"training.{other}" in overrides or not isinstance(tree.get("training"), dict)
        if f"training.{key}" in overrides and not both:
            kept = {k: v for k, v in tree["training"].items() if k != other}
            tree = {**tree, "training": kept}
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, Recipe)}") from error
    for key, name, known in (
        ("data.source", recipe.data.source, SOURCES),
        ("diffusion.loss", recipe.diffusion.loss, [*LOSSES, VLB]),
    ):
        if name not in known:
            raise ConfigError(f"{where}: {key} = {unknown_name(name, known)}")
    recipe = with_checked_components(recipe, where)
    try:
        _check_together(recipe)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return recipe


def _check_together(recipe: Recipe) -> None:
    """Raise ConfigError for keys that exclude or need each other."""
    settings, diffusion = recipe.training, recipe.diffusion
    learned = recipe.network.options.get("learned_variance", False)
    if settings.steps == 0 and settings.epochs is None:
        raise ConfigError("training.steps is missing. Give it, or training.epochs.")
    if settings.steps and settings.epochs is not None:
        raise ConfigError("training.steps and training.epochs exclude each other. Keep one.")
    try:
        diffusion.objective()
    except ValueError as error:
        raise ConfigError(f"diffusion.{error}") from error
    try:
        check_prediction(diffusion.noise_schedule(), diffusion.prediction)
    except ValueError as error:
        name = diffusion.schedule.name
        name += " with zero_terminal_snr" if diffusion.zero_terminal_snr else ""
        raise ConfigError(f"diffusion.schedule = {name}: {error}") from error
    if diffusion.loss == VLB and not learned:
        raise ConfigError(
            "diffusion.loss = vlb trains a learned variance. Set network.learned_variance=true."
        )
    if diffusion.offset_noise and learned:
        raise ConfigError(
            f"diffusion.offset_noise = {diffusion.offset_noise:g} excludes a learned variance: the "
            "bound assumes standard normal noise. Set it to 0, or network.learned_variance=false."
        )
    if learned != (diffusion.vlb_weight > 0 or diffusion.loss == VLB):
        raise ConfigError(
            f"network.learned_variance = {learned}, but diffusion.vlb_weight = "
            f"{diffusion.vlb_weight:g}. Only the bound trains a variance: set both (0.001 is the "
            "usual weight) or neither, or diffusion.loss=vlb."
        )
    if diffusion.variance_reading != "range" and not learned:
        raise ConfigError(
            f"diffusion.variance_reading = {diffusion.variance_reading} has no effect with "
            "network.learned_variance = False. Remove it."
        )
    check_sampling(recipe, labels=recipe.data.labels)


def check_sampling(section: Any, *, labels: bool) -> None:
    """Raise ConfigError if the `sampling` of a recipe or a specification does not fit the rest."""
    sampling, T = section.sampling, section.diffusion.T
    if sampling.timesteps not in TIMESTEPS:
        raise ConfigError(f"sampling.timesteps = {unknown_name(sampling.timesteps, TIMESTEPS)}")
    learned = section.network.options.get("learned_variance", False)
    if sampling.sampler.options.get("variance") == "learned" and not learned:
        raise ConfigError(
            "sampling.sampler.variance = learned, but network.learned_variance = False. "
            "Use small or large."
        )
    eta = sampling.sampler.options.get("eta", 0)
    if not 0 <= eta <= 1:
        raise ConfigError(
            f"sampling.sampler.eta = {eta:g} is out of range. Use 0 (deterministic) to 1 (as ddpm)."
        )
    interval = sampling.guidance_interval
    if interval is not None and not interval[0] <= interval[1] <= T:
        raise ConfigError(
            f"sampling.guidance_interval = {interval[0]}-{interval[1]} is out of range. Give the "
            f"first and the last guided t, 1 ≤ first ≤ last ≤ T = {T}."
        )
    if sampling.guidance != 1 and not labels:
        raise ConfigError(
            f"sampling.guidance = {sampling.guidance:g} (s in ε = ε_∅ + s·(ε_c − ε_∅)) needs a "
            "model with labels. Set data.labels=true."
        )
