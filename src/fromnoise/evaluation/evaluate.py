"""`fromnoise evaluate` from top to bottom: from what a person names to scores on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromnoise.classifier.classifier import load_classifier
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import Sampling
from fromnoise.evaluation.checks import Given, check_enough_images, check_request
from fromnoise.evaluation.features import Extractor, check_installed, select_extractor
from fromnoise.evaluation.generated import Generated, draw, found
from fromnoise.evaluation.images import UNKNOWN, training_data_of
from fromnoise.evaluation.kinds import is_model
from fromnoise.evaluation.label_evaluation import evaluate_labels, label_table, read_prompts
from fromnoise.evaluation.likelihood import evaluate_bits
from fromnoise.evaluation.opening import OF_A_RUN, build_extractor, open_real, open_reference
from fromnoise.evaluation.records import table
from fromnoise.evaluation.reference import described, reference_from_npz
from fromnoise.evaluation.sets import USUAL, check_metrics, evaluate_set
from fromnoise.evaluation.sweep import (
    best,
    facts_of,
    in_words,
    is_guided,
    read_rows,
    sweep,
    ways,
    with_default,
)
from fromnoise.evaluation.sweep import table as sweep_table
from fromnoise.model.model import Model, load
from fromnoise.model.precision import Asked
from fromnoise.model.spec import Weights, run_folder_of
from fromnoise.progress import counting

MANY, A_FEW = 10_000, 1000  # images, when nobody says how many; in each way of a sweep


def by_labels(
    path: Path,
    *,
    classifier: Path | None,
    files: Sequence[Path] = (),
    texts: Sequence[str] = (),
    scales: Sequence[float] | None = None,
    num: int = 8,
    first_seed: int = 0,
    batch_size: int = 64,
    weights: Weights | None = None,
    out: Path | None = None,
    device: str = "auto",
    precision: Asked = "auto",
    **how: Any,
) -> tuple[str, Path]:
    """Score how well a model's images show what is asked for; the table and its folder.

    files, texts: as in `read_prompts`. scales: of guidance; by default the model's own. precision:
    as in `load`. Others as in `evaluate_labels`.
    """
    if classifier is None:
        raise ConfigError(
            "--classifier is missing: what an image shows is said by a classifier, which `fromnoise classifier "
            "train` trains on labelled images"
        )
    model = load(path, weights=weights, device=device, precision=precision)
    opened = load_classifier(classifier, device=device)
    prompts = read_prompts(model.spec.label_names, files, texts)
    plan = model.sampling_plan(**how)
    name = ["labels", *_way(model, plan, how), *_asked(precision), *(p.name for p in prompts)]
    folder = out or run_folder_of(path) / "evaluation" / "-".join(name)
    with counting("images") as progress:
        rows = evaluate_labels(
            model,
            opened,
            prompts,
            folder,
            scales=scales or [model.spec.sampling.guidance],
            num=num,
            first_seed=first_seed,
            batch_size=batch_size,
            loaded_from=str(path.absolute()),
            progress=progress,
            **how,
        )
    return label_table(rows, opened), folder


def as_a_set(
    path: Path,
    *,
    num: int | None = None,
    reference: str = "train",
    extractor: str | None = None,
    classifier: Path | None = None,
    features_weights: Path | None = None,
    metrics: Sequence[str] = USUAL,
    allow_small: bool = False,
    first_seed: int = 0,
    batch_size: int = 64,
    weights: Weights | None = None,
    out: Path | None = None,
    device: str = "auto",
    precision: Asked = "auto",
    **how: Any,
) -> tuple[str, Path]:
    """Score a model's images, or those of a folder or file, as a set; the table and its folder.

    path: a run, a checkpoint or a .safetensors file, whose model draws `num` images (10,000); or a
    folder, zip or npz of images, of which the first `num` are taken (all). reference: `train` or
    `test` of the run's data; a folder, zip or npz of images; or an npz with `mu` and `sigma`.
    extractor: one of EXTRACTORS; None for the classifier where one is given, else inception. precision:
    as in `load`. how: as in `Model.sampling_plan`.
    Raises ValueError for whatever does not fit together, before the first image is drawn.
    """
    check_installed()
    check_metrics(metrics)
    extractor = select_extractor(
        extractor, classifier=classifier, features_weights=features_weights
    )
    model = None
    if is_model(path):
        model = load(path, weights=weights, device=device, precision=precision)
    generated = found(path, num) if model is None else None
    shape = _shape(model, generated)
    real = open_real(reference, path, model, shape)
    space = build_extractor(
        extractor, shape, classifier=classifier, features_weights=features_weights, device=device
    )
    count = len(generated.images) if generated else num or MANY
    folder = out or _default_folder(path, model, space, reference, count, how, precision)
    known = UNKNOWN if model is None else training_data_of(path)
    num_real = None if real is None else len(real.images)
    given = Given(count, shape, num_real, space, known, with_model=model is not None)
    check_request(given, metrics, folder, allow_small=allow_small)
    against = open_reference(reference, real, space)

    if model is not None:
        with counting("images") as progress:
            generated = draw(
                model,
                count,
                labels_of=real.images if real is not None else None,
                first_seed=first_seed,
                batch_size=batch_size,
                loaded_from=str(path.absolute()),
                progress=progress,
                **how,
            )
    assert generated is not None
    record = evaluate_set(
        generated,
        against,
        space,
        folder,
        known=known,
        model=model,
        metrics=metrics,
        allow_small=allow_small,
    )
    return table(record), folder


def bits_alone(
    path: Path, *, weights: Weights | None = None, out: Path | None = None, device: str = "auto"
) -> tuple[str, Path]:
    """Measure bits per dimension of the images of a model's run; the table and its folder.

    path: a run or a checkpoint in it. Raises ValueError where it has no model or no images.
    """
    check_installed()
    model = load(path, weights=weights, device=device)
    name = f"bits-{model.spec.step:06d}-{model.spec.weights_name}"
    folder = out or run_folder_of(path) / "evaluation" / name
    with counting("images whose bits are counted") as progress:
        record = evaluate_bits(
            model,
            training_data_of(path),
            folder,
            loaded_from=str(path.absolute()),
            progress=progress,
        )
    return table(record), folder


def sweep_a_model(
    path: Path,
    *,
    samplers: Sequence[str],
    steps: Sequence[int],
    scales: Sequence[float] = (),
    num: int | None = None,
    reference: str = "train",
    extractor: str | None = None,
    classifier: Path | None = None,
    features_weights: Path | None = None,
    allow_small: bool = False,
    batch_size: int = 64,
    weights: Weights | None = None,
    out: Path | None = None,
    save_best: Path | None = None,
    device: str = "auto",
    precision: Asked = "auto",
) -> tuple[str, Path]:
    """Measure quality against cost in several ways of sampling; the table and its folder.

    scales: of guidance; none for the model's own. num: by default 1,000, or as many as there are
    features. save_best: where to write the model with the best way as its default. Others as in
    `as_a_set`. In the folder of a sweep that was interrupted, the same one goes on.
    """
    check_installed()
    if save_best is not None:
        _check_new_model_file(save_best)
    extractor = select_extractor(
        extractor, classifier=classifier, features_weights=features_weights
    )
    model = load(path, weights=weights, device=device, precision=precision)
    plans = ways(model, samplers, steps, scales)
    shape = _shape(model, None)
    real = open_real(reference, path, model, shape)
    guided = is_guided(model, real)
    if scales and not guided:
        raise ConfigError(
            f"--guidance: the images of --reference {reference} do not have the labels of the "
            "model, so there is nothing to guide towards; leave --guidance out, or take "
            "--reference train"
        )
    space = build_extractor(
        extractor, shape, classifier=classifier, features_weights=features_weights, device=device
    )
    num = num or max(A_FEW, space.width)
    name = ["sweep", f"{model.spec.step:06d}", *_asked(precision), space.name, str(num)]
    folder = out or run_folder_of(path) / "evaluation" / "-".join(name)
    num_real = None if real is None else len(real.images)
    check_enough_images(num, num_real, space, allow_small=allow_small)
    said = described(real) if real else reference_from_npz(Path(reference), space).said
    read_rows(folder, facts_of(model, plans, said, space, num=num, batch_size=batch_size))
    against = open_reference(reference, real, space)
    rows = sweep(
        model,
        plans,
        against,
        space,
        folder,
        num=num,
        labels_of=real,
        batch_size=batch_size,
        loaded_from=str(path.absolute()),
    )
    row = best(rows)
    said = f"best: {in_words(row)}, the fastest within the interval of the smallest distance"
    if save_best is not None:
        best_way = with_default(model, row, guided=guided)
        said += f"; the default of {best_way.save(save_best).absolute()}"
    text = sweep_table(rows, space.name, num=num, reference=against.said)
    return f"{text}\n{said}\n", folder


def _check_new_model_file(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"--save-best {path} does not end in .safetensors, by which a model file is known; "
            "give it that ending"
        )
    if path.exists():
        raise ConfigError(f"{path.absolute()} is there already; give --save-best a new name")


def _shape(model: Model | None, generated: Generated | None) -> tuple[int, int, int]:
    """(C, H, W) of the images that are scored."""
    if model is not None:
        return (model.spec.channels, *model.spec.size)
    assert generated is not None
    _, channels, height, width = generated.images.shape
    return channels, height, width


def _default_folder(
    path: Path,
    model: Model | None,
    space: Extractor,
    reference: str,
    num: int,
    how: dict[str, Any],
    precision: Asked,
) -> Path:
    """evaluation/set-… in the run; set-… beside a folder or file of images."""
    against = reference if reference in OF_A_RUN else Path(reference).stem
    parts = [space.name, against, str(num)]
    if model is None:
        return path.absolute().parent / "-".join(["set", path.stem, *parts])
    plan = model.sampling_plan(**how)
    guided = [f"s{plan.guidance:g}"] if plan.guidance != 1 else []
    name = ["set", *_way(model, plan, how), *guided, *_asked(precision), *parts]
    return run_folder_of(path) / "evaluation" / "-".join(name)


def _asked(precision: Asked) -> list[str]:
    """In the name of a folder: the precision, where it was not left to the device."""
    return [] if precision == "auto" else [precision]


def _way(model: Model, plan: Sampling, how: dict[str, Any]) -> list[str]:
    """How a model was sampled, in the name of a folder: what was asked for besides, as `eta0.5`."""
    asked = [f"{key}{how[key]}" for key in ("eta", "variance", "timesteps") if key in how]
    spec = model.spec
    return [f"{spec.step:06d}", spec.weights_name, plan.sampler.name, str(plan.steps), *asked]
