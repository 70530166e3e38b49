"""`fromnoise sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.cli import options


def sweep(
    model: options.ModelPath,
    settings: options.SamplingKeys = None,
    samplers: Annotated[str, typer.Option(help="separated by commas")] = "ddpm,ddim",
    steps: Annotated[str, typer.Option(help="of each sampler")] = "5,10,20,50,100",
    guidance: Annotated[
        str | None,
        typer.Option(help="scales s in ε = ε_∅ + s·(ε_c − ε_∅)", show_default="the model's"),
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(min=1, help="per row", show_default="1,000, or one per feature")
    ] = None,
    reference: options.Reference = "train",
    extractor: options.Extractor = None,
    classifier: options.ClassifierPath = None,
    features_weights: options.FeaturesWeights = None,
    allow_small: options.AllowSmall = False,
    save_best: Annotated[
        Path | None, typer.Option(help="write FILE.safetensors with the best row as its default")
    ] = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    out: Annotated[Path | None, typer.Option(show_default="evaluation/ in the run")] = None,
    device: options.Device = "auto",
) -> None:
    """Compare samplers, steps and guidance: quality against seconds, with the Pareto front."""
    from fromnoise.cli.parsing import parse_integers, parse_names, parse_numbers, parse_sampling
    from fromnoise.evaluation.sweep import sweep_to_folder

    text, folder = sweep_to_folder(
        model,
        samplers=parse_names(samplers),
        steps=parse_integers(steps, "--steps", "5,10,20"),
        scales=parse_numbers(guidance, "--guidance", "1,2,3") if guidance else (),
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
        sampling=parse_sampling(settings, dict.fromkeys(("sampler", "steps", "guidance"))),
    )
    print(text, end="")
    print(folder.absolute())
