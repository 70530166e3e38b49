"""`fromnoise evaluate`, `evaluate-labels` and `likelihood`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.cli import options
from fromnoise.cli.parsing import parse_names, parse_numbers, parse_sampling
from fromnoise.evaluation import evaluate as sets
from fromnoise.evaluation.label_evaluation import evaluate_labels_to_folder
from fromnoise.evaluation.likelihood import evaluate_likelihood
from fromnoise.evaluation.sets import METRICS

Out = Annotated[
    Path | None, typer.Option(help="a new folder", show_default="in evaluation/ of the run")
]
Seed = Annotated[int, typer.Option(min=0, help="of the first image")]


def evaluate(
    path: Annotated[
        Path, typer.Argument(help="a run, a checkpoint, a .safetensors file; or images")
    ],
    settings: options.SamplingKeys = None,
    num_images: Annotated[
        int | None, typer.Option(min=1, show_default="10,000, or all images")
    ] = None,
    reference: options.Reference = "train",
    extractor: options.Extractor = None,
    classifier: options.ClassifierPath = None,
    features_weights: options.FeaturesWeights = None,
    metrics: Annotated[str, typer.Option(help="separated by commas")] = ",".join(METRICS),
    allow_small: options.AllowSmall = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of the first image", show_default="0")
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    guidance: options.Guidance = None,
    weights: options.Weights = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="images at a time", show_default="64")
    ] = None,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """Compare a set of images with real ones: FID, KID, precision, recall, copies."""
    text, folder = sets.evaluate(
        path,
        num=num_images,
        reference=reference,
        extractor=extractor,
        classifier=classifier,
        features_weights=features_weights,
        metrics=parse_names(metrics),
        allow_small=allow_small,
        first_seed=seed,
        batch_size=batch_size,
        weights=weights,
        out=out,
        device=device,
        sampling=parse_sampling(settings, steps=steps, sampler=sampler, guidance=guidance),
    )
    print(text, end="")
    print(folder.absolute())


def evaluate_labels(
    model: options.ModelPath,
    classifier: Annotated[Path, typer.Option(help="folder of `fromnoise classifier train`")],
    settings: options.SamplingKeys = None,
    conditions: Annotated[
        list[Path] | None, typer.Option(help="a JSON list of conditions; may be repeated")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help='as in "red cube, -blue sphere"; may be repeated')
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="images per condition")] = 8,
    guidance: Annotated[
        str | None,
        typer.Option(
            help="scales s in ε = ε_∅ + s·(ε_c − ε_∅), as in 1,2,3", show_default="the model's"
        ),
    ] = None,
    seed: Seed = 0,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """Measure how often samples show the requested labels, by a classifier.

    Without --conditions and --labels, each label is requested alone.
    """
    overrides = parse_sampling(settings, steps=steps, sampler=sampler, guidance=guidance)
    scales = overrides.pop("guidance", None)
    text, folder = evaluate_labels_to_folder(
        model,
        classifier,
        files=conditions or [],
        texts=labels or [],
        scales=None if scales is None else parse_numbers(str(scales), "--guidance", "1,2,3"),
        num=num,
        first_seed=seed,
        batch_size=batch_size,
        weights=weights,
        out=out,
        device=device,
        sampling=overrides,
    )
    print(text, end="")
    print(folder.absolute())


def likelihood(
    model: options.ModelPath,
    weights: options.Weights = None,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """Measure bits per dimension of held-out images of the run, at most 1,000."""
    text, folder = evaluate_likelihood(model, weights=weights, out=out, device=device)
    print(text, end="")
    print(folder.absolute())
