"""Check the requests of pages. Their settings have the names of the command line."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from fromnoise.config.arguments import parse_seeds, parse_training
from fromnoise.config.errors import ConfigError, explain
from fromnoise.config.recipe import recipe_text, shipped_recipes
from fromnoise.config.schema import Fit, Natural, Positive, Section

MOST_IMAGES = 1024  # of one request; the command line allows more
MOST_EDITS = 64
MASK = "mask.png"
Body = TypeVar("Body", bound=Section)


def _or_none(value: Any) -> Any:
    return None if value == "" else value


def _words(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"it cannot be split into words: {error}") from error


Text = Annotated[str | None, BeforeValidator(_or_none)]  # empty is absent
Number = Annotated[float | None, BeforeValidator(_or_none)]
Count = Annotated[Positive | None, BeforeValidator(_or_none)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]  # KEY=VALUE, as on the command line
Name = Annotated[str, Field(min_length=1, max_length=100)]


class Making(Section):
    """A request for samples: `fromnoise sample` with these arguments."""

    seeds: str = "0-15"
    steps: Count = None
    sampler: Text = None
    guidance: Number = None
    labels: Text = None
    compose: Text = None
    settings: Words = ()
    gif: bool = False
    npz: bool = False
    trajectory: bool = False
    every: Count = None  # steps between two pictures of the denoising; None: up to ten per second

    def numbers(self) -> list[int]:
        """Return the seeds. Raises ConfigError for unreadable ones, and for too many."""
        seeds = parse_seeds(self.seeds)
        if len(seeds) > MOST_IMAGES:
            raise ConfigError(
                f"there are {len(seeds):,} seeds. Give at most {MOST_IMAGES:,}, or use the command "
                "line."
            )
        return seeds

    def command(self, run: Path) -> str:
        """Return the command that writes the same files."""
        words = ["sample", str(run), "--seeds", self.seeds.replace(" ", "")]
        for flag in ("steps", "sampler", "guidance", "labels", "compose"):
            if (value := getattr(self, flag)) is not None:
                words += [f"--{flag}", f"{value:g}" if isinstance(value, float) else str(value)]
        words += [f"--{flag}" for flag in ("gif", "npz", "trajectory") if getattr(self, flag)]
        return shell_line([*words, *self.settings])


def read_body(body: type[Body], content: Any) -> Body:
    """Return the checked body of a request. Raises ConfigError."""
    try:
        return body.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(error, body)) from error


class Editing(Section):
    """Edits of an image: `fromnoise edit` with these arguments."""

    kind: Literal["inpaint", "vary", "walk", "walk seeds"]
    image: Text = None  # the id of an input
    other: Text = None  # the id of the second input of an interpolation
    mask: Text = None  # a PNG in base64: white is inpainted
    seeds: str = "0-3"
    steps: Count = None
    labels: Text = None
    guidance: Number = None
    strength: Number = None
    frames: Annotated[int, Field(ge=2, le=64, strict=True)] = 16

    def numbers(self) -> list[int]:
        """Return the seeds. Raises ConfigError for unreadable ones, and for too many."""
        seeds = parse_seeds(self.seeds)
        if len(seeds) > MOST_EDITS:
            raise ConfigError(
                f"there are {len(seeds):,} seeds. Give at most {MOST_EDITS}, or use the command "
                "line."
            )
        return seeds

    def command(self, run: Path, folder: Path, inputs: Sequence[Path]) -> str:
        """Return the command that writes the same images. folder: of the mask."""
        name = "interpolate" if self.kind.startswith("walk") else self.kind
        words = ["edit", name, str(run), "--out", "edited"]
        flags = ("--a", "--b") if self.kind == "walk" else ("--image",)
        for flag, file in zip(flags, inputs, strict=False):
            words += [flag, str(file)]
        words += ["--mask", str(folder / MASK)] if self.kind == "inpaint" else []
        words += ["--seeds", self.seeds.replace(" ", "")] if self.kind != "walk" else []
        words += ["--frames", str(self.frames)] if name == "interpolate" else []
        for flag in ("steps", "guidance", "labels", "strength"):
            if (value := getattr(self, flag)) is not None:
                words += [f"--{flag}", f"{value:g}" if isinstance(value, float) else str(value)]
        return shell_line(words)


class Picture(Section):
    """An image of a result, by the number of its file."""

    result: str
    number: Natural


class Place(Section):
    """A folder or file in one of `Places`."""

    place: str
    path: str = ""


class Crops(Place):
    """Images at the size and fit of a training."""

    size: Annotated[int, Field(ge=1, le=1024, strict=True)]
    fit: Fit = "crop"


class Upload(Section):
    """A new folder for uploads."""

    name: Name


class Training(Section):
    """A training: `fromnoise train` with these arguments."""

    recipe: Name
    name: Name  # of the run folder
    place: Text = None  # of the data; None for those of the recipe
    path: str = ""
    minutes: Number = None
    size: Count = None
    labels: bool = False
    settings: Words = ()

    def words(self) -> list[str]:
        """Return the settings as KEY=VALUE."""
        words = [f"minutes={self.minutes:g}"] if self.minutes is not None else []
        words += [f"data.size={self.size}"] if self.size is not None else []
        words += ["data.labels=true"] if self.labels else []
        return [*words, *self.settings]

    def overrides(self) -> dict[str, Any]:
        """Return the overrides of the recipe. Raises ConfigError for wrong keys and values."""
        if self.recipe not in shipped_recipes():
            recipe_text(self.recipe)  # raises
        return parse_training(self.recipe, self.words())

    def arguments(self, out: Path, data: Path | None) -> list[str]:
        """Return the arguments of the command."""
        given = [] if data is None else ["--data", str(data)]
        return ["train", self.recipe, *given, "--out", str(out), *self.words()]


class Resuming(Section):
    """A run to resume: `fromnoise resume` with these settings."""

    settings: Words = ()


def shell_line(arguments: Sequence[str]) -> str:
    """Return a command as a line for a shell."""
    return shlex.join(["fromnoise", *arguments])
