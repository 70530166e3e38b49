"""What pages send, checked: the settings of the command line under the same names."""

import shlex
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from fromnoise.config.arguments import parse_seeds
from fromnoise.config.errors import ConfigError, explain
from fromnoise.config.schema import Positive, Section

MOST_IMAGES = 1024  # of one request; the command line makes more
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
    """Pictures of a model: `fromnoise sample` with these arguments."""

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
    every: Count = None  # steps between two pictures of the denoising; None: ten a second at most

    def numbers(self) -> list[int]:
        """Return the seeds. Raises ConfigError for unreadable ones, and for too many."""
        seeds = parse_seeds(self.seeds)
        if len(seeds) > MOST_IMAGES:
            raise ConfigError(
                f"seeds are {len(seeds):,}. Make at most {MOST_IMAGES:,} at once here, or use the "
                "command line."
            )
        return seeds

    def command(self, run: Path) -> str:
        """Return the command that makes exactly these files."""
        words = ["fromnoise", "sample", str(run), "--seeds", self.seeds.replace(" ", "")]
        for flag in ("steps", "sampler", "guidance", "labels", "compose"):
            if (value := getattr(self, flag)) is not None:
                words += [f"--{flag}", f"{value:g}" if isinstance(value, float) else str(value)]
        words += [f"--{flag}" for flag in ("gif", "npz", "trajectory") if getattr(self, flag)]
        return shlex.join([*words, *self.settings])


def read_body(body: type[Body], content: Any) -> Body:
    """Return what a page sent. Raises ConfigError with one sentence."""
    try:
        return body.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(error, body)) from error
