"""`fromnoise evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.cli import options
from fromnoise.cli import parsing as asking
from fromnoise.evaluation import evaluate as evaluating
from fromnoise.evaluation.kinds import kind_of, refuse_without_effect
from fromnoise.evaluation.sets import METRICS, USUAL


def evaluate(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(help="a run, a checkpoint, a .safetensors file; or images")
    ],
    num_images: Annotated[
        int | None,
        typer.Option(min=1, help="as a set", show_default="10,000, or all that are there"),
    ] = None,
    reference: options.Reference = "train",
    extractor: options.Extractor = None,
    features_weights: options.FeaturesWeights = None,
    metrics: Annotated[
        str,
        typer.Option(
            help=f"of the set: {', '.join(METRICS)}; bits are of 1,000 images at most, held out if "
            "there are any; to add one later, give another --out"
        ),
    ] = ",".join(USUAL),
    allow_small: options.AllowSmall = False,
    conditions: Annotated[
        list[Path] | None,
        typer.Option(
            help="by labels: a JSON list of conditions; more than one may be given",
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help='by labels: as in "red cube, -blue sphere"; more than one may be given',
        ),
    ] = None,
    cycle_classes: Annotated[
        bool, typer.Option("--cycle-classes", help="by labels: each alone")
    ] = False,
    num: Annotated[
        int | None,
        typer.Option(min=1, help="by labels: images for each condition", show_default="8"),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="what `fromnoise classifier train` wrote; labels need one")
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            help="s in ε = ε_∅ + s·(ε_c − ε_∅), and by labels also several, as in 1,2,3 ",
            show_default="the model's",
        ),
    ] = None,
    guidance_interval: options.GuidanceInterval = None,
    guidance_rescale: options.GuidanceRescale = None,
    clamp: options.Clamp = None,
    seed: Annotated[int, typer.Option(min=0, help="of the first image")] = 0,
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    eta: options.Eta = None,
    variance: options.Variance = None,
    timesteps: options.Timesteps = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    out: Annotated[
        Path | None,
        typer.Option(help="a new folder", show_default="in evaluation/ of the run; beside images"),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Score images: as a set against real ones, or by the labels that were asked for."""
    names = asking.parse_names(metrics)
    kind = kind_of(model, by_labels=bool(conditions or labels or cycle_classes), metrics=names)
    refuse_without_effect(kind, options.typed(context))
    how = asking.how_to_sample(
        sampler=sampler,
        steps=steps,
        eta=eta,
        variance=variance,
        timesteps=timesteps,
        guidance_interval=guidance_interval,
        guidance_rescale=guidance_rescale,
        clamp=clamp,
    )
    scales = asking.parse_scales(guidance) if guidance else None
    common = {"weights": weights, "out": out, "device": device}
    drawing = {"precision": precision, "batch_size": batch_size, "first_seed": seed}
    if kind == "bits":
        text, folder = evaluating.bits_alone(model, **common)
    elif kind == "labels":
        text, folder = evaluating.by_labels(
            model,
            classifier=classifier,
            files=conditions or [],
            texts=labels or [],
            scales=scales,
            num=num or 8,
            **drawing,
            **common,
            **how,
        )
    else:
        text, folder = evaluating.as_a_set(
            model,
            num=num_images,
            reference=reference,
            extractor=extractor,
            classifier=classifier,
            features_weights=features_weights,
            metrics=names,
            allow_small=allow_small,
            guidance=asking.only_scale(scales),
            **drawing,
            **common,
            **how,
        )
    print(text, end="")
    print(folder.absolute())
