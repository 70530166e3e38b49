"""Sweep samplers, step counts and guidance: quality against cost, by the same seeds.

sweep-…/sweep.json    a row per sampling configuration, written after each of them
        sweep.md      the same as a table
        sweep.png     distance against seconds per image, with the Pareto front

The same sweep into the same folder resumes after the last row.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.evaluation.checks import check_enough_images
from fromnoise.evaluation.features import (
    Extractor,
    check_installed,
    digest,
    extract_features,
    load_extractor,
)
from fromnoise.evaluation.fid import moments_of
from fromnoise.evaluation.images import RealImages, generate_images, has_labels, run_images_of
from fromnoise.evaluation.metrics import BLOCKS, fid_intervals, frechet_jackknifed
from fromnoise.evaluation.reference import (
    Reference,
    describe,
    open_real,
    open_reference,
    reference_from_npz,
)
from fromnoise.evaluation.sweep_table import Row, best, read_rows, row_name, table, write_sweep
from fromnoise.model.model import Model, load
from fromnoise.model.sampling import SHAPES_OF_GUIDANCE
from fromnoise.model.spec import Weights, run_folder_of
from fromnoise.progress import progress_bar

DEFAULT_COUNT = 1000  # images per configuration
logger = logging.getLogger("fromnoise")


def sweep_to_folder(
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
    sampling: Mapping[str, Any] | None = None,
) -> tuple[str, Path]:
    """Sweep the sampling of a model, and return the table and its folder.

    scales: of guidance; none for the model's own. num: images per configuration; 1,000, or one per
    feature if there are more. save_best: where to write the model with the best configuration as
    its default. Others as in `evaluate`.
    """
    check_installed()
    if save_best is not None:
        _check_new_model_file(save_best)
    model = load(path, weights=weights, device=device)
    run = run_folder_of(path)
    real = open_real(reference, model.image_shape, model.spec, run_images_of(run))
    guided = has_labels(model, real)
    if scales and not guided:
        raise ConfigError(
            f"--guidance has no effect: the images of --reference {reference} lack the labels of "
            "the model. Remove --guidance, or use --reference train."
        )
    configs = sweep_configs(model, samplers, steps, scales, guided=guided, sampling=sampling)
    space = load_extractor(
        extractor,
        model.image_shape,
        classifier=classifier,
        features_weights=features_weights,
        device=device,
    )
    num = num or max(DEFAULT_COUNT, space.width)
    parts = ["sweep", f"{model.spec.step:06d}", configs[0].precision, space.name, str(num)]
    folder = out or run / "evaluation" / "-".join(parts)
    num_real = None if real is None else len(real.images)
    check_enough_images(num, num_real, space, allow_small=allow_small)
    info = describe(real) if real else reference_from_npz(Path(reference), space).info
    facts = sweep_facts(model, configs, info, space, num=num, batch_size=batch_size)
    if rows := read_rows(folder, facts):
        logger.info("%d of %d rows are in %s", len(rows), len(configs), folder.absolute())
    facts["loaded from"] = str(path.absolute())
    against = open_reference(reference, real, space)
    sweep(model, configs, against, space, folder, rows, facts, labels_of=real)
    row = best(rows)
    note = f"best: {row_name(row)}, the fastest within the interval of the smallest distance"
    if save_best is not None:
        file = with_default(model, configs[rows.index(row)], guided=guided).save(save_best)
        note += f"; the default of {file.absolute()}"
    text = table(rows, space.name, num=num, reference=against.info)
    return f"{text}\n{note}\n", folder


def sweep_configs(
    model: Model,
    samplers: Sequence[str],
    steps: Sequence[int],
    scales: Sequence[float],
    *,
    guided: bool,
    sampling: Mapping[str, Any] | None = None,
) -> list[SamplingConfig]:
    """Return every combination once, checked. scales: empty for the model's own."""
    combinations = dict.fromkeys(itertools.product(samplers, steps, scales or [None]))
    return [
        model.sampling_config(
            conditional=guided,
            **{**(sampling or {}), "sampler": sampler, "steps": count, "guidance": scale},
        )
        for sampler, count, scale in combinations
    ]


def sweep_facts(
    model: Model,
    configs: Sequence[SamplingConfig],
    reference: Mapping[str, Any],
    extractor: Extractor,
    *,
    num: int,
    batch_size: int,
) -> dict[str, Any]:
    """Return all that the rows depend on, for JSON. reference: `Reference.info`."""
    return {
        "versions": {name: version(name) for name in ("fromnoise", "torch")},
        "model": digest(model.denoiser),
        **model.spec.weights_info(),
        "sampling": [config.model_dump(mode="json") for config in configs],
        "count": num,
        "batch_size": batch_size,
        "reference": reference,
        "extractor": {key: v for key, v in extractor._asdict().items() if key != "extract"},
        "device": str(model.device),
    }


def sweep(
    model: Model,
    configs: Sequence[SamplingConfig],
    reference: Reference,
    extractor: Extractor,
    folder: Path,
    rows: list[Row],
    facts: dict[str, Any],
    *,
    labels_of: RealImages | None = None,
) -> None:
    """Sample the same seeds by each configuration without a row, and append its time and distance.

    The sweep is written into `folder` after each row. facts: those of `sweep_facts`.
    """
    num, batch_size = facts["count"], facts["batch_size"]
    guided = has_labels(model, labels_of)
    model.sample(
        range(min(batch_size, num)), batch_size=batch_size, steps=1, precision=configs[0].precision
    )  # a warm-up
    for config in configs[len(rows) :]:
        with progress_bar(f"images by {config.sampler.name} {config.steps}") as progress:
            generated = generate_images(
                model, num, config, labels_of=labels_of, batch_size=batch_size, progress=progress
            )
        features = extract_features(extractor, generated.images)
        blocks = [moments_of(block) for block in np.array_split(features, BLOCKS)]
        distance = frechet_jackknifed(blocks, reference.mean, reference.covariance)
        fid, _ = fid_intervals(distance)
        assert generated.seconds is not None
        scale, seconds = config.guidance if guided else 1.0, generated.seconds / num
        left_out = distance.left_out.tolist()
        rows.append(Row(config.sampler.name, config.steps, scale, seconds, fid, left_out))
        facts["complete"] = len(rows) == len(configs)
        write_sweep(folder, rows, facts, extractor.name)


def with_default(model: Model, config: SamplingConfig, *, guided: bool = True) -> Model:
    """Return the same model with other default settings; guided: those of guidance too."""
    kept = {"precision"} if guided else {"precision", "guidance", *SHAPES_OF_GUIDANCE}
    stored = config.model_copy(update=model.spec.sampling.model_dump(include=kept))
    spec = model.spec.model_copy(update={"sampling": stored})
    return Model(model.denoiser, spec, precision=model.auto_precision)


def _check_new_model_file(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ConfigError(f"--save-best {path} is not a model file. Name it FILE.safetensors.")
    if path.exists():
        raise ConfigError(f"--save-best {path.absolute()} exists. Give a new name.")
