"""`fromnoise sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.cli import options
from fromnoise.cli import parsing as asking
from fromnoise.evaluation import evaluate as evaluating


def sweep(
    model: Annotated[Path, typer.Argument(help="a run, a checkpoint or a .safetensors file")],
    samplers: Annotated[str, typer.Option(help="which, with commas")] = "ddpm,ddim",
    steps: Annotated[
        str, typer.Option(help="of each; a step asks the network once, of heun twice")
    ] = "5,10,20,50,100",
    guidance: Annotated[
        str | None,
        typer.Option(help="scales s in ε = ε_∅ + s·(ε_c − ε_∅)", show_default="the model's"),
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(min=1, help="in each way", show_default="1,000, or one a feature"),
    ] = None,
    reference: options.Reference = "train",
    extractor: options.Extractor = None,
    classifier: Annotated[Path | None, typer.Option(help="for its features")] = None,
    features_weights: options.FeaturesWeights = None,
    allow_small: options.AllowSmall = False,
    save_best: Annotated[
        Path | None, typer.Option(help="write FILE.safetensors that samples in the best way")
    ] = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    out: Annotated[Path | None, typer.Option(show_default="evaluation/ in the run")] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Find the cheapest good way of sampling: quality against seconds, with the Pareto front."""
    text, folder = evaluating.sweep_a_model(
        model,
        samplers=asking.parse_names(samplers),
        steps=asking.parse_counts(steps),
        scales=asking.parse_scales(guidance) if guidance else (),
        num=num_images,
        reference=reference,
        extractor=extractor,
        classifier=classifier,
        features_weights=features_weights,
        allow_small=allow_small,
        batch_size=batch_size,
        weights=weights,
        out=out,
        save_best=save_best,
        device=device,
        precision=precision,
    )
    print(text, end="")
    print(folder.absolute())
