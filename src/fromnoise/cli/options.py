"""Arguments and flags that several commands share, and how their values are parsed."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from typer import Argument, Option

from fromnoise.config.arguments import SAMPLERS
from fromnoise.config.arguments import parse_sampling as parse_sampling
from fromnoise.config.arguments import parse_seeds as parse_seeds
from fromnoise.config.arguments import parse_training as parse_training
from fromnoise.config.errors import ConfigError

Number = TypeVar("Number", int, float)
# repeated for the help, because the dicts of these names import torch
METRICS = "fid, kid, is, prc, copies"
FORMATS = (
    "explainingai, zoubohao, w86763777, mnist-tutorial, lucidrains, context-unet, diffusers, openai"
)


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes whose names begin with `incomplete`."""
    from fromnoise.config.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RecipeName = Annotated[
    str, Argument(help="a shipped recipe's name, or a YAML file", autocompletion=complete_recipe)
]
TrainingData = Annotated[
    Path | None, Option(help="images to train on: a folder, zip, npz or IDX file")
]
RunFolder = Annotated[Path | None, Option(help="the run folder", show_default="runs/RECIPE")]
TrainingKeys = Annotated[
    list[str] | None,
    Argument(metavar="KEY=VALUE", help="settings, as in steps=20000 or data.size=32"),
]
SamplingKeys = Annotated[
    list[str] | None,
    Argument(
        metavar="KEY=VALUE",
        help="settings of sampling: steps, sampler and its options (eta, variance), timesteps, "
        "clamp, guidance, guidance_interval, guidance_rescale, precision",
    ),
]
ModelPath = Annotated[Path, Argument(help="a run, a checkpoint or a .safetensors file")]
Sampler = Annotated[str | None, Option(help=f"short for sampler=…, such as {SAMPLERS}")]
Steps = Annotated[int | None, Option(help="sampling steps, short for steps=…")]
Guidance = Annotated[
    float | None, Option(help="short for guidance=…: s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off")
]
Class = Annotated[
    str | None, Option("--class", help="these labels, separated by commas, and no others")
]
Labels = Annotated[
    str | None, Option(help='as in "red cube, -blue sphere": present, absent; others stay open')
]
Weights = Annotated[
    Literal["ema", "raw"] | None, Option(help="averaged or raw weights", show_default="ema")
]
BatchSize = Annotated[int, Option(min=1, help="images at a time")]
Device = Annotated[str, Option(help="cpu, cuda, mps")]
Reference = Annotated[
    str, Option(help="train or test of the run; a folder, zip or npz; an npz of mu and sigma")
]
Extractor = Annotated[
    str | None,
    Option(
        help="inception, dinov2, classifier or pixels",
        show_default="classifier if given, else inception",
    ),
]
ClassifierPath = Annotated[
    Path | None, Option("--classifier", help="folder of `fromnoise classifier train`")
]
FeaturesWeights = Annotated[
    Path | None, Option(help="a file of Inception's weights", show_default="downloaded")
]
AllowSmall = Annotated[
    bool, Option("--allow-small", help="accept fewer images than features, and mark the score")
]


def parse_seeds_or_count(seeds: str | None, num: int | None) -> list[int] | None:
    """Return the seeds of --seeds, or 0 to --num − 1; None if neither is given."""
    if seeds is not None and num is not None:
        raise ConfigError("--seeds and --num exclude each other. Give one.")
    if seeds is not None:
        return parse_seeds(seeds)
    return None if num is None else list(range(num))


def parse_numbers(text: str, flag: str, example: str, kind: type[Number] = float) -> list[Number]:
    """Return the numbers, at least 0, of `0,0.5,20`."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise ConfigError(f"{flag} {text!r} is unreadable. Write {example}.")
    return numbers


def parse_names(text: str) -> list[str]:
    """Return the names of `fid, kid`."""
    return [name.strip() for name in text.split(",")]
