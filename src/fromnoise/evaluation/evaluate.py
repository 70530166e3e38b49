"""Evaluate the images of a model, or of a folder or file, as a set against real ones.

    set-…/metrics.json    scores with their intervals, and the settings
          metrics.md      the same as a table
          copies.png      generated images beside their nearest training images

The first two are rewritten after every metric, so that an interruption loses none.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fromnoise.config.components import Component, check_component
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.evaluation.features import check_installed, open_extractor
from fromnoise.evaluation.images import (
    NO_RUN,
    generate_images,
    has_labels,
    load_in_fp32,
    read_images,
    run_images_of,
)
from fromnoise.evaluation.records import (
    NotDefined,
    new_record,
    published_beside,
    require_no_scores,
    table,
    write_record,
)
from fromnoise.evaluation.reference import RUN_SPLITS, open_real, open_reference
from fromnoise.evaluation.sets import (
    METRICS,
    check_enough_images,
    check_metrics,
    marks,
    subject_of,
    undefined_metrics,
)
from fromnoise.model.spec import ModelSpec, Weights, is_model, run_folder_of
from fromnoise.progress import progress_bar

DEFAULT_COUNT = 10_000  # images


def evaluate(
    path: Path,
    *,
    num: int | None = None,
    reference: str = "train",
    extractor: str | None = None,
    classifier: Path | None = None,
    features_weights: Path | None = None,
    metrics: Sequence[str] = tuple(METRICS),
    allow_small: bool = False,
    first_seed: int | None = None,
    batch_size: int | None = None,
    weights: Weights | None = None,
    out: Path | None = None,
    device: str = "auto",
    sampling: Mapping[str, Any] | None = None,
) -> tuple[str, Path]:
    """Score a set of images, and return the table and the folder of the scores.

    Args:
        path: a run, a checkpoint or a .safetensors file, whose model samples `num` images (10,000);
            or a folder, zip or npz of images, of which `num` are taken (all).
        reference: `train` or `test` of the run; a folder, zip or npz of images; an npz with `mu`
            and `sigma`.
        extractor: one of EXTRACTORS; None for the classifier if there is one, else inception.
        first_seed, batch_size: None is 0 and 64.
        sampling: overrides of the model's sampling settings, see `resolve_sampling`; `precision`
            is fp32 unless it is set.

    Raises ValueError: settings, images or labels that do not match, before any image is sampled.
    """
    check_installed()
    check_metrics(metrics)
    if not path.exists():
        raise ConfigError(
            f"there is no run, model or folder of images at {path.absolute()}. Check the path."
        )
    model = load_in_fp32(path, weights=weights, device=device) if is_model(path) else None
    flags = {"--weights": weights, "--seed": first_seed, "--batch-size": batch_size}
    given = [*(sampling or {}), *(flag for flag, value in flags.items() if value is not None)]
    if model is None and given:
        raise ConfigError(
            f"{given[0]} has no effect: {path.absolute()} holds images, not a model. Remove it."
        )
    against = reference if reference in RUN_SPLITS else Path(reference).stem
    if model:
        generated, count, shape = None, num or DEFAULT_COUNT, model.image_shape
        run_images = run_images_of(run_folder_of(path))
        real = open_real(reference, shape, model.spec, run_images)
        config = model.sampling_config(conditional=has_labels(model, real), **(sampling or {}))
        folder = run_folder_of(path) / "evaluation"
        parts = ["set", *sampling_name(model.spec, config)]
    else:
        generated, config, run_images = read_images(path, num), None, NO_RUN
        count, shape = len(generated.images), generated.images.shape[1:]
        real = open_real(reference, shape)
        folder, parts = path.absolute().parent, ["set", path.stem]
    space = open_extractor(
        extractor, shape, classifier=classifier, features_weights=features_weights, device=device
    )
    folder = out or folder / "-".join([*parts, space.name, against, str(count)])
    require_no_scores(folder)
    num_real = None if real is None else len(real.images)
    check_enough_images(count, num_real, space, allow_small=allow_small)
    undefined = undefined_metrics(metrics, shape, num_real, space, run_images)
    real_features = open_reference(reference, real, space)
    if model and config:
        with progress_bar("images") as progress:
            generated = generate_images(
                model,
                count,
                config,
                labels_of=real,
                first_seed=first_seed or 0,
                batch_size=batch_size or 64,
                loaded_from=str(path.absolute()),
                progress=progress,
            )
    assert generated is not None
    record = new_record() | {
        "generated": generated.info,
        "reference": real_features.info,
        "extractor": space.info(),
        "marks": marks(count, real_features, space),
        "seconds": {"drawing": generated.seconds},
    }
    started = time.perf_counter()
    subject = subject_of(generated, real_features, space, run_images, folder)
    record["seconds"]["features"] = time.perf_counter() - started
    for name in metrics:
        started = time.perf_counter()
        try:
            if name in undefined:
                raise NotDefined(undefined[name])
            result = METRICS[name](subject)
        except NotDefined as reason:
            record["missing"][name] = str(reason)
        else:
            record |= {key: record.get(key, {}) | value for key, value in result.items()}
            record["seconds"][name] = time.perf_counter() - started
        write_record(folder, record)
    record |= {"complete": True, "published": published_beside(record)}
    write_record(folder, record)
    return table(record), folder


def sampling_name(spec: ModelSpec, config: SamplingConfig) -> list[str]:
    """Return the parts of a folder's name that tell the model and its sampling settings."""
    usual, sampler = spec.sampling, config.sampler
    parts = [f"{spec.step:06d}", spec.weights_name, sampler.name, str(config.steps)]
    stored = usual.sampler
    if stored.name != sampler.name:
        stored = check_component(Component(name=sampler.name), "sampling.sampler")
    parts += [f"{k}{v}" for k, v in sampler.options.items() if stored.options.get(k) != v]
    parts += [config.timesteps] if config.timesteps != usual.timesteps else []
    parts += [f"s{config.guidance:g}"] if config.guidance != 1 else []
    return [*parts, config.precision]
