"""The recipe: everything that a run depends on, checked before anything is built.

Sections are pydantic models that refuse unknown keys. What has a name and options of its own (a
schedule, a network, a sampler) is a `Component`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from fromnoise.config.components import Component, Section, with_checked_components
from fromnoise.config.errors import ConfigError, explain, near, unknown
from fromnoise.data import SOURCES
from fromnoise.diffusion import (
    LOSSES,
    TIMESTEPS,
    VLB,
    WEIGHTINGS,
    NoiseSchedule,
    Objective,
    check_prediction,
)

LONGEST = 12**-0.5  # σ_rel of an average in which all steps count the same
LENGTHS = (
    "the length of an average is a part of the training, above 0 and below "
    f"1/√12 = {LONGEST:.4f}, as in 0.1"
)
RECIPES = resources.files("fromnoise.config") / "recipes"


def _pair(value: Any) -> Any:
    return (value, value) if type(value) is int else value


def _named(name: str) -> BeforeValidator:
    """Options without a name are those of this one, as in `sampling.sampler.eta=1`."""
    return BeforeValidator(
        lambda value: {"name": name, **value} if isinstance(value, dict) else value
    )


def _rgb(value: Any) -> Any:
    return (value, value, value) if type(value) is int else value


def _length(value: float) -> float:
    if not 0 < value < LONGEST:
        raise ValueError(LENGTHS)
    return value


def _lengths(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(f"it must be a list, as in [0.05, 0.1]; {LENGTHS}")
    return value


Natural = Annotated[int, Field(ge=0, strict=True)]
Level = Annotated[int, Field(ge=0, le=255, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Length = Annotated[float, AfterValidator(_length)]


class Data(Section):
    """Where the images come from, and how they become (C,H,W) uint8."""

    source: str
    path: Path | None = None
    split: Literal["train", "test"] = "train"
    size: Annotated[tuple[Positive, Positive] | None, BeforeValidator(_pair)] = None  # (H, W)
    channels: Positive | None = None
    fit: Literal["crop", "pad", "squash"] = "crop"
    background: Annotated[tuple[Level, Level, Level], BeforeValidator(_rgb)] = (255, 255, 255)
    flip: bool = False
    labels: bool = False  # train on the labels too, so that one can ask for them
    strict: bool = False


class Diffusion(Section):
    """The forward process, what the network predicts, and the loss."""

    T: Positive = 1000
    schedule: Annotated[Component, _named("linear")] = Component(name="linear")
    zero_terminal_snr: bool = False  # ᾱ shrunk until ᾱ_T = 0; for v and x0
    prediction: Literal["eps", "x0", "v"] = "eps"
    variance_reading: Literal["range", "log"] = "range"  # of what a learned variance returns
    loss: str = "mse"
    weighting: Annotated[Component, _named("simple")] = Component(name="simple")
    vlb_weight: Annotated[float, Field(ge=0)] = 0.0  # of the bound, where the variance is learned
    offset_noise: Annotated[float, Field(ge=0)] = 0.0  # strength of noise that is one per channel

    def noise_schedule(self) -> NoiseSchedule:
        """The table of ᾱ. Raises ValueError for options of the schedule that make none."""
        name, options = self.schedule.name, self.schedule.options
        snr = self.zero_terminal_snr
        return NoiseSchedule.named(name, self.T, zero_terminal_snr=snr, **options)

    def objective(self) -> Objective:
        """What training minimises. Raises ValueError, which begins with a key of this section."""
        name, options = self.weighting.name, self.weighting.options
        weighting = partial(WEIGHTINGS[name], **options) if options else WEIGHTINGS[name]
        return Objective(self.loss, self.vlb_weight, weighting)

    @property
    def loss_in_words(self) -> str:
        """`huber × min_snr`, `mse × simple + 0.001 × vlb`, or `vlb`, which has its own weights."""
        if self.loss == VLB:
            return VLB
        bound = f" + {self.vlb_weight:g} × {VLB}" if self.vlb_weight else ""
        return f"{self.loss} × {self.weighting.name}{bound}"


class Training(Section):
    """One optimiser step sees `batch_size` images, whatever the accumulation."""

    steps: Natural = 0  # 0: what `epochs` come to
    epochs: Annotated[float, Field(gt=0)] | None = (
        None  # turned into steps when the images are known
    )
    batch_size: Positive
    start_from: Path | None = None  # a run or model whose weights are the first ones
    condition_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1  # images that lose all labels
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0  # images that say only a part
    accumulation: Positive = 1  # parts that a batch is computed in; less memory, same gradient
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: Natural = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    # σ_rel of power-function averages beside the usual one
    ema_lengths: Annotated[tuple[Length, ...], BeforeValidator(_lengths)] = ()
    ema_snapshot_every: Positive | None = None  # steps; None: 20 times in all
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: Literal["auto", True, False] = "auto"
    compile: Literal["auto", True, False] = "auto"  # the blocks of the network
    device: str = "auto"
    seed: Natural = 0
    noise_levels: Literal["uniform", "stratified", "importance"] = "uniform"  # how t is drawn
    log_every: Positive = 50
    preview_every: Positive = 1000
    preview_images: Positive = 16
    checkpoint_every: Positive = 1000
    keep_checkpoints: Positive = 2
    milestone_every: Positive | None = None
    tensorboard: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> "Training":
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation is larger than batch_size = {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _lengths_differ(self) -> "Training":
        names = [f"{length:g}" for length in self.ema_lengths]  # of their files
        if len(set(names)) < len(names):
            raise ValueError(f"ema_lengths says a length twice: {', '.join(names)}; say each once")
        return self


class Sampling(Section):
    """How this model is sampled when nothing else is said."""

    sampler: Annotated[Component, _named("ddim")] = Component(name="ddim")
    steps: Positive = 50  # at most T
    timesteps: str = "trailing"
    clamp: Literal[True, False, "dynamic"] = True  # of x̂_0 to the range of images
    guidance: Annotated[float, Field(ge=0)] = 1.0  # s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off
    guidance_interval: tuple[Positive, Positive] | None = None  # (first, last) t with guidance
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0  # φ; 0 is off


class Evaluation(Section):
    """A score while training, against the training images; every 0 steps is never."""

    every: Natural = 0  # steps; it costs the time that drawing the images takes
    num_images: Annotated[int, Field(ge=40, strict=True)] = 3072  # enough for any pixels
    extractor: Literal["pixels", "classifier", "inception", "dinov2"] = "pixels"
    classifier: Path | None = None


class Recipe(Section):
    """A whole run: data, network, diffusion, training, sampling, evaluation."""

    data: Data
    network: Component
    diffusion: Diffusion = Diffusion()
    training: Training
    sampling: Sampling = Sampling()
    evaluation: Evaluation = Evaluation()

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def shipped_recipes() -> list[str]:
    """The names of the recipes in the package."""
    return sorted(p.name[:-5] for p in RECIPES.iterdir() if p.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe, comments included."""
    if name not in shipped_recipes():
        raise ConfigError(
            f"there is no recipe {name!r}{near(name, shipped_recipes())}; "
            f"shipped: {', '.join(shipped_recipes())}"
        )
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_head(name: str) -> dict[str, str]:
    """What the comments at the top of a shipped recipe say: about, command, time, score."""
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
        raise ConfigError(f"there is no recipe file {path.absolute()}")
    where = str(path) if is_file else f"recipe {source}"
    try:
        text = path.read_text(encoding="utf-8") if is_file else recipe_text(str(source))
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_recipe(tree, where, overrides)


def parse_recipe(tree: Any, where: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The same for a nested dict that came from `where`."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must hold the sections {', '.join(Recipe.model_fields)}")
    for key, value in (overrides or {}).items():
        tree = with_key(tree, key.split("."), value)
        if key in ("training.steps", "training.epochs"):  # the one replaces the recipe's other
            other = "epochs" if key == "training.steps" else "steps"
            if f"training.{other}" not in (overrides or {}):
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
            raise ConfigError(f"{where}: {key} {unknown(name, known)}")
    recipe = with_checked_components(recipe, where)
    _check_together(recipe, where)
    return recipe


def _check_together(recipe: Recipe, where: str) -> None:
    """What one key asks of another."""
    settings = recipe.training
    if settings.steps == 0 and settings.epochs is None:
        raise ConfigError(f"{where}: training.steps is missing; give it, or training.epochs")
    if settings.steps and settings.epochs is not None:
        raise ConfigError(f"{where}: training.steps and training.epochs are both given; keep one")
    diffusion, learned = recipe.diffusion, recipe.network.options.get("learned_variance", False)
    try:
        diffusion.objective()
    except ValueError as error:
        raise ConfigError(f"{where}: diffusion.{error}") from error
    try:
        check_prediction(diffusion.noise_schedule(), diffusion.prediction)
    except ValueError as error:
        name = diffusion.schedule.name
        name += " with zero_terminal_snr" if diffusion.zero_terminal_snr else ""
        raise ConfigError(f"{where}: diffusion.schedule {name}: {error}") from error
    if diffusion.loss == VLB and not learned:
        raise ConfigError(
            f"{where}: diffusion.loss = vlb is the bound, from which a variance is learned: "
            "set network.learned_variance=true"
        )
    if diffusion.offset_noise and learned:
        raise ConfigError(
            f"{where}: diffusion.offset_noise = {diffusion.offset_noise:g} is other noise than "
            "that of the bound, from which a variance is learned from; set it to 0, or "
            "network.learned_variance=false"
        )
    if learned != (diffusion.vlb_weight > 0 or diffusion.loss == VLB):
        raise ConfigError(
            f"{where}: network.learned_variance = {learned}, but diffusion.vlb_weight = "
            f"{diffusion.vlb_weight:g}: a variance is learned from the bound alone, so set both "
            "(0.001 is the usual weight) or neither; diffusion.loss = vlb is the bound too"
        )
    if diffusion.variance_reading != "range" and not learned:
        raise ConfigError(
            f"{where}: diffusion.variance_reading = {diffusion.variance_reading}, but there is "
            "no variance to read: network.learned_variance = False"
        )
    check_sampling(recipe, labels=recipe.data.labels, where=where)


def check_sampling(section: Any, *, labels: bool, where: str = "") -> None:
    """Whether a recipe's or a model's way of sampling fits its network and its labels."""
    prefix, sampling = f"{where}: " if where else "", section.sampling
    if sampling.timesteps not in TIMESTEPS:
        raise ConfigError(f"{prefix}sampling.timesteps {unknown(sampling.timesteps, TIMESTEPS)}")
    learned = section.network.options.get("learned_variance", False)
    if sampling.sampler.options.get("variance") == "learned" and not learned:
        raise ConfigError(
            f"{prefix}sampling.sampler.variance is learned, but network.learned_variance is False"
        )
    eta = sampling.sampler.options.get("eta", 0)
    if not 0 <= eta <= 1:
        raise ConfigError(
            f"{prefix}sampling.sampler.eta must lie between 0, deterministic, and 1, as ddpm, "
            f"not {eta:g}"
        )
    if (interval := sampling.guidance_interval) is not None:
        T = section.diffusion.T
        if not interval[0] <= interval[1] <= T:
            raise ConfigError(
                f"{prefix}sampling.guidance_interval is {interval[0]}–{interval[1]}; it must be "
                f"the first and the last t with guidance, 1 ≤ first ≤ last ≤ T = {T}"
            )
    if sampling.guidance != 1 and not labels:
        raise ConfigError(
            f"{prefix}sampling.guidance = {sampling.guidance:g} (s in "
            "ε = ε_∅ + s·(ε_c − ε_∅)) needs a model with labels: set data.labels = true"
        )


def parse_override(text: str) -> tuple[str, Any]:
    """`training.steps=500` → ("training.steps", 500). The value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is no override; write key=value, as in training.steps=500")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {key} is not valid YAML: {value!r}") from error


def with_key(tree: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of the nested dict with one dotted key replaced; `name` grows into {name: name}."""
    first, *rest = keys
    if not rest:
        return {**tree, first: value}
    inner = tree.get(first) or {}
    inner = {"name": inner} if isinstance(inner, str) else inner
    if not isinstance(inner, dict):
        raise ConfigError(f"{first} is a value, not a section; it has no key {'.'.join(rest)}")
    return {**tree, first: with_key(inner, rest, value)}


def dotted(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one level of dotted keys: `{"training": {"steps": 5}}` → training.steps."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
