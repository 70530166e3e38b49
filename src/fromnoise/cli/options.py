"""What several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fromnoise.diffusion import SAMPLERS, TIMESTEPS
from fromnoise.model.precision import Asked

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. training.steps=500")
]
Sampler = Annotated[str | None, typer.Option(help=", ".join(SAMPLERS))]
Timesteps = Annotated[str | None, typer.Option(help=f"of the times: {', '.join(TIMESTEPS)}")]
Steps = Annotated[
    int | None,
    typer.Option(help="of the sampler; each asks the network once, of heun twice"),
]
Eta = Annotated[float | None, typer.Option(help="of ddim: 0 deterministic, 1 as ddpm")]
Variance = Annotated[str | None, typer.Option(help="of ddpm: small, large or learned")]
GuidanceInterval = Annotated[
    str | None, typer.Option(help="the t that are guided, as in 200-800", show_default="all")
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="φ: how far contrast goes back to that of s = 1"),
]
Clamp = Annotated[
    Literal["yes", "no", "dynamic"] | None,
    typer.Option(help="the predicted x_0 to the range of images, or to a percentile of it"),
]
Weights = Annotated[
    Literal["ema", "raw"] | None, typer.Option(help="averaged (the default), or as trained")
]
BatchSize = Annotated[int, typer.Option(min=1, help="images at a time")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps")]
Precision = Annotated[
    Asked,
    typer.Option(help="of the network; auto is bf16 where the device computes in it"),
]
Reference = Annotated[
    str, typer.Option(help="train or test of the run; a folder, zip or npz; an npz of mu and sigma")
]
Extractor = Annotated[
    str | None,
    typer.Option(
        help="inception, dinov2, classifier or pixels",
        show_default="classifier if given, inception",
    ),
]
FeaturesWeights = Annotated[Path | None, typer.Option(help="Inception's, instead of fetching them")]
AllowSmall = Annotated[
    bool, typer.Option("--allow-small", help="fewer images than features, marked so")
]


def typed(context: typer.Context) -> list[str]:
    """The options that stand on the command line, as `--seed`; defaults are not among them."""

    def stands(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return [option.opts[0] for option in context.command.params if stands(option.name or "")]
