"""The sections of a recipe, as pydantic models that refuse unknown keys.

A key that names something with options (a schedule, a network, a sampler) holds a `Component`. Its
name and options are checked in `components.py`: this module does not need torch.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

if TYPE_CHECKING:
    from fromnoise.diffusion import NoiseSchedule, Objective

FORMULA = "ε = ε_∅ + s·(ε_c − ε_∅)"  # guidance; s = 1 is off
RULE = "trailing"  # of the timesteps
LONGEST = 12**-0.5  # σ_rel of an average in which all steps count the same


def repeated(count: int) -> BeforeValidator:
    """Read one integer as a tuple of `count` equal ones."""
    return BeforeValidator(lambda value: (value,) * count if type(value) is int else value)


def _named(name: str) -> BeforeValidator:
    """Options without a name are those of this one, as in `sampling.sampler.eta=1`."""
    return BeforeValidator(
        lambda value: {"name": name, **value} if isinstance(value, dict) else value
    )


def _interval(value: Any) -> Any:
    if not isinstance(value, str | int):
        return value
    first, last = map(str.strip, str(value).partition("-")[::2])
    if not (first.isdecimal() and last.isdecimal()):
        raise ValueError("write the first and the last guided t, as in 200-800")
    return (int(first), int(last))


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a list, a tuple or a range."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _timesteps(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not is_list(value) or not value:
        raise ValueError("name a rule, or list the times, as in [1000, 740, 420, 150]")
    if not all(isinstance(t, Integral) and not isinstance(t, bool) for t in value):
        raise ValueError("the times are whole numbers, as in [1000, 740, 420, 150]")
    if value[-1] < 1 or not all(t > s for t, s in pairwise(value)):
        raise ValueError("the times must fall, the last one at least 1, as in [1000, 740, 420]")
    return tuple(map(int, value))


def _scale(value: float) -> float:
    if value < 0:
        raise ValueError(f"use s ≥ 0 in {FORMULA}, where 1 is off")
    return value


def _steps_or_share(value: Any) -> Any:
    if type(value) is not int and not (type(value) is float and 0 < value < 1):
        raise ValueError("write a number of steps, or a share of the training, as in 0.1")
    return value


Natural = Annotated[int, Field(ge=0, strict=True)]
Level = Annotated[int, Field(ge=0, le=255, strict=True)]
White = Annotated[int, Field(ge=1, le=65535, strict=True)]
Fit = Literal["crop", "pad", "squash"]
Positive = Annotated[int, Field(ge=1, strict=True)]
Interval = Annotated[tuple[Positive, Positive], BeforeValidator(_interval)]
Timesteps = Annotated[str | tuple[int, ...], BeforeValidator(_timesteps)]
Length = Annotated[float, Field(gt=0, lt=LONGEST)]
TrackerName = Literal["tensorboard", "wandb", "trackio"]
Augmentation = Literal["x_flip", "y_flip", "scaling", "rotation", "anisotropy", "translation"]
# steps, or a share of the training
Every = Annotated[int | float, BeforeValidator(_steps_or_share), Field(gt=0)]


class Section(BaseModel):
    """A section of the recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(BaseModel):
    """A named callable and its options, written `name` or `{name: …, option: …}`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Return every key but the name."""
        return dict(self.model_extra or {})


# written as its name alone where it has no options
BY_NAME = PlainSerializer(
    lambda component: component.model_dump() if component.options else component.name
)


class Data(Section):
    """The images: their source, and their conversion to (C,H,W) of one depth."""

    source: str
    path: Path | None = None
    split: Literal["train", "test"] = "train"  # of a source, or of folders train/ and test/
    size: Annotated[tuple[Positive, Positive] | None, repeated(2)] = None  # (H, W)
    channels: Positive | None = None
    fit: Fit = "crop"
    background: Annotated[tuple[Level, Level, Level], repeated(3)] = (255, 255, 255)
    white: White | None = None  # its value in images of 16 bits, such as 4095; None: 65535
    depth: Literal[8, 16, "float"] = 8  # of the images while training and as they are sampled
    range: tuple[float, float] | None = None  # black and white of floats; None: 0 and 1
    holdout: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = None  # not trained on
    flip: bool = False
    labels: bool = False  # train on the labels too, to sample by them
    strict: bool = False

    @model_validator(mode="after")
    def _range_fits(self) -> "Data":
        if self.range is not None and self.depth != "float":
            raise ValueError(f"range is for floats, but depth = {self.depth}. Set depth=float")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range = {list(self.range)} is empty. Give black, then white")
        return self


class Diffusion(Section):
    """The forward process, what the network predicts, and the loss."""

    T: Positive = 1000
    schedule: Annotated[Component, _named("linear")] = Component(name="linear")
    zero_terminal_snr: bool = False  # ᾱ shrunk until ᾱ_T = 0; not for eps
    prediction: Annotated[Component, _named("eps"), BY_NAME] = Component(name="eps")
    variance_reading: Literal["range", "log"] = "range"  # of what a learned variance returns
    loss: str = "mse"
    weighting: Annotated[Component, _named("simple")] = Component(name="simple")
    vlb_weight: Annotated[float, Field(ge=0)] = 0.0  # of the bound, where the variance is learned
    offset_noise: Annotated[float, Field(ge=0)] = 0.0  # strength of noise that is one per channel

    def noise_schedule(self) -> "NoiseSchedule":
        """Return the noise schedule. Raises ValueError for options that make none."""
        from fromnoise.diffusion import NoiseSchedule

        name, options = self.schedule.name, self.schedule.options
        snr = self.zero_terminal_snr
        return NoiseSchedule.named(name, self.T, zero_terminal_snr=snr, **options)

    def objective(self) -> "Objective":
        """Return the training objective. Raises ValueError, its message begins with a key."""
        from fromnoise.diffusion import WEIGHTINGS, Objective

        name, options = self.weighting.name, self.weighting.options
        weighting = partial(WEIGHTINGS[name], **options) if options else WEIGHTINGS[name]
        return Objective(self.loss, self.vlb_weight, weighting)

    @property
    def loss_in_words(self) -> str:
        """Return `huber × min_snr`, `mse × simple + 0.001 × vlb`, or `vlb` (own weights)."""
        if self.loss == "vlb":
            return "vlb"
        bound = f" + {self.vlb_weight:g} × vlb" if self.vlb_weight else ""
        return f"{self.loss} × {self.weighting.name}{bound}"


LENGTHS = ("steps", "epochs", "minutes", "hours")
COUNTS = {  # of steps, or shares of the training
    "training": (
        *("warmup_steps", "log_every", "preview_every", "checkpoint_every", "milestone_every"),
        "ema_snapshot_every",
    ),
    "evaluation": ("every",),
}
PATHS = {"data": "path", "training": "start_from", "evaluation": "classifier"}


def _count(value: float | None, steps: int) -> float | None:
    """Return the steps of a share; numbers of steps stay."""
    # rounded up, so that a share of 1/n makes n of them
    return math.ceil(value * steps - 1e-6) if isinstance(value, float) else value


def least_divisor(number: int, least: int) -> int:
    """Return the least divisor of a number that is at least `least`, or the number."""
    return next((d for d in range(least, number) if number % d == 0), number)


class Training(Section):
    """One optimiser step sees `batch_size` images, in any number of parts.

    The length is one of `steps`, `epochs`, `minutes` and `hours`; the last three become steps: when
    the images are counted, or when some steps are timed. A key that counts steps may also be a
    share of the training: `preview_every: 0.1` is 10 previews.
    """

    steps: Annotated[Natural, Field(le=10**9)] = 0  # 0: computed from the others
    epochs: Annotated[float, Field(gt=0, le=10**6)] | None = None
    minutes: Annotated[float, Field(ge=1, le=10**6)] | None = None
    hours: Annotated[float, Field(ge=1 / 60, le=10**4)] | None = None
    batch_size: Positive
    start_from: Path | None = None  # a run or model with the initial weights
    condition_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1  # of dropping all labels
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of dropping some labels
    augment: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability of each augmentation
    augmentations: tuple[Augmentation, ...] = get_args(Augmentation)
    parts: Positive = 1  # of a batch, one after the other: less memory, the same gradient
    checkpoint_gradients: bool = False  # compute blocks again in the backward pass: less memory
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: Annotated[int | float, BeforeValidator(_steps_or_share), Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    # σ_rel of power-function averages beside the usual one
    ema_lengths: tuple[Length, ...] = ()
    ema_snapshot_every: Every | None = None  # None: 20 snapshots
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: Literal["auto", True, False] = "auto"
    compile: Literal["auto", True, False] = "auto"  # the blocks of the network
    device: str = "auto"
    noise_device: Literal["cpu", "device"] = (
        "cpu"  # where ε is drawn: the two give different numbers
    )
    seed: Natural = 0
    # how t is drawn
    noise_levels: Annotated[Component, _named("uniform"), BY_NAME] = Component(name="uniform")
    log_every: Every = 50
    preview_every: Every = 1000
    preview_images: Positive = 16
    checkpoint_every: Every = 1000
    keep_checkpoints: Positive = 2
    patience: Positive | None = None  # checkpoints without a lower held-out loss that end it
    milestone_every: Every | None = None
    log_to: Annotated[tuple[TrackerName, ...], BeforeValidator(_as_list)] = ()  # beside log.jsonl

    @property
    def budget(self) -> float | None:
        """Return the seconds of a length in minutes or hours, or None."""
        minutes = self.minutes if self.hours is None else 60 * self.hours
        return None if minutes is None else 60 * minutes

    @model_validator(mode="after")
    def _keys_fit(self) -> "Training":
        if self.batch_size % self.parts:
            raise ValueError(
                f"parts = {self.parts} does not divide batch_size = {self.batch_size}. Use "
                f"{least_divisor(self.batch_size, self.parts)}"
            )
        names = [f"{length:g}" for length in self.ema_lengths]  # of their files
        if len(set(names)) < len(names):
            raise ValueError(f"ema_lengths repeats a length: {', '.join(names)}. Give each once")
        if set(self.augmentations) != set(every := get_args(Augmentation)) and not self.augment:
            raise ValueError(
                "augmentations has no effect with augment = 0. Set augment, as in 0.12, or leave "
                "augmentations out"
            )
        if len(set(self.augmentations)) < max(len(self.augmentations), 1):
            raise ValueError(
                f"augmentations is empty or repeats a name. Choose from {', '.join(every)}"
            )
        return self


class SamplingConfig(Section):
    """The settings of sampling: a section of the recipe, stored in the model as its default."""

    sampler: Annotated[Component, _named("ddim")] = Component(name="ddim")
    steps: Positive = 50  # at most T; those of a list of timesteps
    timesteps: Timesteps = RULE  # the name of a rule, or the times themselves, falling
    clamp: Literal[True, False, "dynamic"] = True  # of x̂_0 to the range of images
    guidance: Annotated[float, AfterValidator(_scale)] = 1.0  # s in FORMULA; 1 is off
    guidance_interval: Interval | None = None  # (first, last) t with guidance, also as 200-800
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0  # φ; 0 is off
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 if the device computes in it

    @model_validator(mode="before")
    @classmethod
    def _steps_of_a_list(cls, value: Any) -> Any:
        times = value.get("timesteps") if isinstance(value, dict) else None
        if not is_list(times) or not times or "steps" in value:
            return value
        return {**value, "steps": len(times)}

    @property
    def rule(self) -> str:
        """Return the rule of the timesteps; that for other numbers of steps, if they are a list."""
        return self.timesteps if isinstance(self.timesteps, str) else RULE

    @property
    def timesteps_name(self) -> str:
        """Return the rule, or `times-1a2b3c4d` of a list, for a file's name."""
        if isinstance(self.timesteps, str):
            return self.timesteps
        digest = hashlib.blake2b(repr(self.timesteps).encode(), digest_size=4)
        return f"times-{digest.hexdigest()}"


class Evaluation(Section):
    """A score while training, against the training images; every 0 steps is never."""

    # steps, or a share of them; it costs the time that drawing the images takes
    every: Annotated[int | float, BeforeValidator(_steps_or_share), Field(ge=0)] = 0
    num_images: Annotated[int, Field(ge=40, strict=True)] = 3072  # enough for any pixels
    extractor: Literal["pixels", "classifier", "inception", "dinov2"] = "pixels"
    classifier: Path | None = None


class Recipe(Section):
    """A whole run: data, network, diffusion, training, sampling, evaluation."""

    data: Data
    network: Component
    diffusion: Diffusion = Diffusion()
    training: Training
    sampling: SamplingConfig = SamplingConfig()
    evaluation: Evaluation = Evaluation()

    def with_steps(self, steps: int) -> "Recipe":
        """Return the recipe with this length, in which shares of it are numbers of steps."""
        length = {**dict.fromkeys(LENGTHS), "steps": steps}
        sections = {"training": self.training.model_copy(update=length)}
        for name, keys in COUNTS.items():
            section = sections.get(name) or getattr(self, name)
            counts = {key: _count(getattr(section, key), steps) for key in keys}
            sections[name] = section.model_copy(update=counts)
        return self.model_copy(update=sections)

    def with_paths(self, changed: Callable[[Path], Path | None]) -> "Recipe":
        """Return the recipe with `changed(path)` for each path in it."""
        sections = {}
        for name, key in PATHS.items():
            section = getattr(self, name)
            path = getattr(section, key)
            sections[name] = section.model_copy(update={key: path and changed(path)})
        return self.model_copy(update=sections)

    def to_yaml(self) -> str:
        """Return the recipe with every default as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
