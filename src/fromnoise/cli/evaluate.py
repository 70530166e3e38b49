"""`fromnoise evaluate`, `evaluate-labels`, `likelihood` and `sweep`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fromnoise.cli import options
from fromnoise.config.errors import ConfigError

Out = Annotated[Path | None, Option(help="a new folder", show_default="in evaluation/ of the run")]
Scales = Annotated[
    str | None, Option(help="one or more scales s, as in 1,2,3", show_default="the model's")
]


def evaluate(
    path: Annotated[Path, Argument(help="a run, a checkpoint, a .safetensors file; or images")],
    settings: options.SamplingKeys = None,
    num: Annotated[int | None, Option(min=1, show_default="10,000, or all images")] = None,
    reference: options.Reference = "train",
    extractor: options.Extractor = None,
    classifier: options.ClassifierPath = None,
    features_weights: options.FeaturesWeights = None,
    metrics: Annotated[
        str | None, Option(help=f"such as {options.METRICS}", show_default="all")
    ] = None,
    allow_small: options.AllowSmall = False,
    seed: Annotated[
        int | None, Option(min=0, help="seed of the first image", show_default="0")
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    guidance: options.Guidance = None,
    weights: options.Weights = None,
    batch_size: Annotated[
        int | None, Option(min=1, help="images at a time", show_default="64")
    ] = None,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """Compare a set of images with real ones: FID, KID, precision, recall, copies."""
    from fromnoise.evaluation import sets
    from fromnoise.evaluation.features import Against
    from fromnoise.evaluation.images import Drawing

    sampling = options.parse_sampling(settings, steps=steps, sampler=sampler, guidance=guidance)
    text, folder = sets.evaluate(
        path,
        Against(reference, extractor, classifier, features_weights, allow_small),
        Drawing(weights, batch_size, device, sampling),
        num=num,
        metrics=options.parse_names(metrics) if metrics is not None else list(sets.METRICS),
        first_seed=seed,
        out=out,
    )
    print(f"{text}{folder.absolute()}")


def evaluate_labels(
    model: options.ModelPath,
    classifier: Annotated[Path, Option(help="folder of `fromnoise classifier train`")],
    settings: options.SamplingKeys = None,
    conditions: Annotated[
        list[Path] | None, Option(help="a JSON list of conditions; may be repeated")
    ] = None,
    labels: Annotated[
        list[str] | None, Option(help='as in "red cube, -blue sphere"; may be repeated')
    ] = None,
    num: Annotated[int, Option(min=1, help="images per condition")] = 8,
    guidance: Scales = None,
    seed: Annotated[int, Option(min=0, help="seed of the first image")] = 0,
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
    from fromnoise.evaluation.images import Drawing
    from fromnoise.evaluation.label_evaluation import evaluate_labels_to_folder

    sampling = options.parse_sampling(settings, steps=steps, sampler=sampler, guidance=guidance)
    scales = sampling.pop("guidance", None)
    text, folder = evaluate_labels_to_folder(
        model,
        classifier,
        Drawing(weights, batch_size, device, sampling),
        files=conditions or [],
        texts=labels or [],
        scales=[] if scales is None else options.parse_numbers(str(scales), "--guidance", "1,2,3"),
        num=num,
        first_seed=seed,
        out=out,
    )
    print(f"{text}{folder.absolute()}")


def likelihood(
    model: options.ModelPath,
    weights: options.Weights = None,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """Measure bits per dimension of up to 1,000 images of a run, held-out ones if it has any."""
    from fromnoise.evaluation.likelihood import evaluate_likelihood

    text, folder = evaluate_likelihood(model, weights=weights, out=out, device=device)
    print(f"{text}{folder.absolute()}")


def sweep(
    model: options.ModelPath,
    settings: options.SamplingKeys = None,
    samplers: Annotated[
        str | None, Option(help="separated by commas", show_default="ddpm,ddim")
    ] = None,
    steps: Annotated[
        str | None, Option(help="steps of each sampler", show_default="5,10,20,50,100")
    ] = None,
    search_times: Annotated[
        bool, Option("--search-times", help="add rows with timesteps optimized for this model")
    ] = False,
    guidance: Scales = None,
    num: Annotated[
        int | None, Option(min=1, help="images per row", show_default="1,000, or one per feature")
    ] = None,
    reference: options.Reference = "train",
    extractor: options.Extractor = None,
    classifier: options.ClassifierPath = None,
    features_weights: options.FeaturesWeights = None,
    allow_small: options.AllowSmall = False,
    save_best: Annotated[
        Path | None, Option(help="write FILE.safetensors with the best row as its default")
    ] = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    out: Annotated[Path | None, Option(file_okay=False, show_default="evaluation/")] = None,
    device: options.Device = "auto",
) -> None:
    """Compare samplers, steps and guidance: quality against seconds, with the Pareto front.

    --search-times needs --steps, and sets --samplers to ddim by default.
    """
    from fromnoise.evaluation.features import Against
    from fromnoise.evaluation.images import Drawing
    from fromnoise.evaluation.sweep import sweep_to_folder

    sampling = options.parse_sampling(settings)
    for key, flag in (("sampler", "--samplers"), ("steps", "--steps"), ("guidance", "--guidance")):
        if key in sampling:
            raise ConfigError(f"{key} has no effect: a sweep sets it. Use {flag}.")
    if search_times and steps is None:
        raise ConfigError("--search-times needs --steps. Give them, as in --steps 4,6,8.")
    samplers = samplers or ("ddim" if search_times else "ddpm,ddim")
    steps = steps or "5,10,20,50,100"
    text, folder = sweep_to_folder(
        model,
        Against(reference, extractor, classifier, features_weights, allow_small),
        Drawing(weights, batch_size, device, sampling),
        samplers=options.parse_names(samplers),
        steps=options.parse_numbers(steps, "--steps", "5,10,20", int),
        scales=options.parse_numbers(guidance, "--guidance", "1,2,3") if guidance else (),
        search=search_times,
        num=num,
        out=out,
        save_best=save_best,
    )
    print(f"{text}{folder.absolute()}")
