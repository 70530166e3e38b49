"""Check what the schema of a recipe cannot: its components, and the keys that need each other."""

from typing import Any

from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError, unknown_name
from fromnoise.config.schema import FORMULA, LENGTHS, Recipe
from fromnoise.data import SOURCES
from fromnoise.diffusion import LOSSES, TIMESTEPS, VLB, check_prediction
from fromnoise.diffusion.denoiser import SIGMA_DATA, check_sigma_data
from fromnoise.diffusion.noise_levels import EVEN, NOISE_LEVELS


def check_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with the options of its components completed. Raises ConfigError."""
    if recipe.data.source not in SOURCES:
        raise ConfigError(f"data.source = {unknown_name(recipe.data.source, SOURCES)}")
    if recipe.diffusion.loss not in (losses := [*LOSSES, VLB]):
        raise ConfigError(f"diffusion.loss = {unknown_name(recipe.diffusion.loss, losses)}")
    recipe = with_checked_components(recipe)
    settings, diffusion = recipe.training, recipe.diffusion
    learned = recipe.network.options.get("learned_variance", False)
    lengths = [f"training.{key}" for key in LENGTHS if getattr(settings, key)]
    if not lengths:
        problem = "= 0 is too small" if "steps" in settings.model_fields_set else "is missing"
        raise ConfigError(f"training.steps {problem}. Give at least 1, or training.minutes.")
    if len(lengths) > 1:
        raise ConfigError(f"{' and '.join(lengths)} exclude each other. Keep one.")
    if settings.patience is not None and recipe.data.holdout is None:
        raise ConfigError(
            f"training.patience = {settings.patience} needs held-out images. Set data.holdout=auto."
        )
    try:
        check_sigma_data(diffusion.prediction.options.get("sigma_data", SIGMA_DATA))
        diffusion.objective()
    except ValueError as error:
        raise ConfigError(f"diffusion.{error}") from error
    try:
        schedule = diffusion.noise_schedule()
        check_prediction(schedule, diffusion.prediction.name)
    except ValueError as error:
        name = diffusion.schedule.name
        name += " with zero_terminal_snr" if diffusion.zero_terminal_snr else ""
        raise ConfigError(f"diffusion.schedule = {name}: {error}") from error
    levels = settings.noise_levels
    if diffusion.loss == VLB and levels.name not in EVEN:
        raise ConfigError(
            f"training.noise_levels = {levels.name} weights the noise levels, but diffusion.loss = "
            f"vlb, the bound, has its own weights. Use {', '.join(EVEN[:-1])} or {EVEN[-1]}."
        )
    try:
        NOISE_LEVELS[levels.name](schedule, **levels.options)
    except ValueError as error:
        raise ConfigError(f"training.{error}") from error
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
    return recipe


def check_sampling(section: Any, *, labels: bool) -> None:
    """Raise ConfigError if the `sampling` of a recipe or a specification does not fit the rest."""
    sampling, T = section.sampling, section.diffusion.T
    times = sampling.timesteps
    if isinstance(times, str):
        if times not in TIMESTEPS:
            raise ConfigError(f"sampling.timesteps = {unknown_name(times, TIMESTEPS)}")
    elif times[0] > T:
        raise ConfigError(
            f"sampling.timesteps has {times[0]}, which is out of range. Use times of 1 to T = {T}."
        )
    elif sampling.steps != len(times):
        raise ConfigError(
            f"sampling.steps = {sampling.steps}, but sampling.timesteps lists {len(times)} times. "
            "Leave sampling.steps out."
        )
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
    churn = sampling.sampler.options.get("churn", 0)
    if churn < 0:
        raise ConfigError(f"sampling.sampler.churn = {churn:g} is out of range. Use 0 or more.")
    first = sampling.sampler.options.get("churn_first", 1)
    last = sampling.sampler.options.get("churn_last")
    if not 1 <= first <= (T if last is None else last) <= T:
        raise ConfigError(
            f"sampling.sampler.churn_first = {first} or churn_last = {last} is out of range. Give "
            f"the first and the last t with churn, 1 ≤ first ≤ last ≤ T = {T}."
        )
    if not churn and (first, last) != (1, None):
        raise ConfigError(
            f"sampling.sampler.churn_first = {first} or churn_last = {last} has no effect without "
            "churn. Set sampling.sampler.churn, or leave it out."
        )
    interval = sampling.guidance_interval
    if interval is not None and not interval[0] <= interval[1] <= T:
        raise ConfigError(
            f"sampling.guidance_interval = {interval[0]}-{interval[1]} is out of range. Give the "
            f"first and the last guided t, 1 ≤ first ≤ last ≤ T = {T}."
        )
    if sampling.guidance != 1 and not labels:
        raise ConfigError(
            f"sampling.guidance = {sampling.guidance:g} (s in {FORMULA}) needs a model with "
            "labels. Set data.labels=true."
        )
