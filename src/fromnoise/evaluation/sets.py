"""Evaluate the images of a model, or of a folder or file, as a set against real ones.

    set-…/metrics.json    scores with their intervals, and the settings
          metrics.md      the same as a table
          copies.png      generated images beside their nearest training images

The first two are rewritten after every metric, so that an interruption loses none.

A metric is a function of a `Subject` that returns a part of the record: {"scores": {name: {"value",
"low", "high"}}}, {"missing": {name: the reason why it is not defined}}, or a key of its own. To add
one, write the function, add it to METRICS, and a test.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fromnoise.config.components import Component, check_component
from fromnoise.config.errors import ConfigError, unknown_name
from fromnoise.config.schema import SamplingConfig
from fromnoise.evaluation import copies as copying
from fromnoise.evaluation import features, images, records
from fromnoise.evaluation import metrics as scoring
from fromnoise.evaluation.features import Extractor
from fromnoise.evaluation.records import Metadata
from fromnoise.model.spec import ModelSpec, is_model, run_folder_of
from fromnoise.progress import progress_bar

DEFAULT_COUNT = 10_000  # images
LIBRARIES = ("fromnoise", "torch", "torchvision", "torch-fidelity", "numpy")
SHEET = "copies.png"
MIN_PER_FEATURE = 3  # images per feature, for FID∞
FEW = (
    "Small: {:,} images in {:,} dimensions. The Fréchet distance of so few is far too large. "
    "Compare it only with the same number of images."
)
FEW_REAL = "The reference is small: {:,} images in {:,} dimensions."


class Subject(NamedTuple):
    """The images to score, their features, and what metrics compare them with."""

    generated: images.Generated
    features: np.ndarray  # float32 (N, D), in the order of the seeds
    logits: np.ndarray | None  # float32 (N, K)
    reference: images.Reference
    extractor: Extractor
    run_images: images.RunImages
    folder: Path  # for pictures

    def in_blocks(self) -> np.ndarray:
        """Return the features in an order whose stretches are alike."""
        order = self.generated.block_order
        return self.features if order is None else self.features[order]


def fid(subject: Subject) -> Metadata:
    """Return the Fréchet distance (FID if the features are Inception's) and FID∞."""
    blocks, real = scoring.blocks_of(subject.in_blocks()), subject.reference
    scores = scoring.frechet_scores(blocks, real.mean, real.covariance)
    if len(subject.features) < MIN_PER_FEATURE * subject.extractor.width:
        reason = f"{MIN_PER_FEATURE} images per feature are needed, of {subject.extractor.width:,}"
        return {"scores": {"fid": scores.fid}, "missing": {"fid_infinity": reason}}
    return {"scores": {"fid": scores.fid, "fid_infinity": scores.at_infinity}}


def kid(subject: Subject) -> Metadata:
    """Return the kernel distance."""
    distance = scoring.kernel_distance(subject.in_blocks(), subject.reference.features)
    return {"scores": {"kid": distance}}


def isc(subject: Subject) -> Metadata:
    """Return the Inception Score, by the classes of the extractor."""
    assert subject.logits is not None
    return {"scores": {"inception_score": scoring.inception_score(subject.logits)}}


def prc(subject: Subject) -> Metadata:
    """Return precision and recall."""
    both = scoring.precision_and_recall(subject.features, subject.reference.features)
    return {"scores": dict(zip(("precision", "recall"), both, strict=True))}


def copies(subject: Subject) -> Metadata:
    """Find copies of training images, in pixels and in the features of the extractor."""
    training, held_out, _ = subject.run_images
    assert training is not None
    extractor, samples, train = subject.extractor, subject.generated.images, training.images.images
    real = None
    if held_out is not None:
        real = held_out.images.images[copying.evenly_spaced(len(held_out.images))]

    def features_of(images_: np.ndarray) -> np.ndarray:
        """Return the features of images, which are known for two sets."""
        if images_ is samples:
            return subject.features
        if images_ is train:
            return images.reference_of(training, extractor).features
        return features.extract_features(extractor, images_).features

    pixels = extractor.name == "pixels"
    spaces = {} if pixels else {f"the features of {extractor.name}": features_of}
    check = copying.check_copies(samples, train, real, spaces=spaces)
    copying.save_copy_sheet(check, samples, train, subject.folder / SHEET)
    return {"copies": {**copying.copies_as_json(check), "sheet": SHEET}}


Metric = Callable[[Subject], Metadata]
METRICS: dict[str, Metric] = {"fid": fid, "kid": kid, "is": isc, "prc": prc, "copies": copies}


def check_enough_images(
    num: int, real: images.RealImages | None, extractor: Extractor, *, allow_small: bool
) -> list[str]:
    """Return the warnings about scores of few images, which `allow_small` permits.

    real: None if the reference is a mean and a covariance.
    Raises ExtractorError for almost no images, or for fewer than features unless `allow_small`.
    """
    marks, width = [], extractor.width
    for what, count, fewest, use, mark in (
        ("images", num, 2 * scoring.BLOCKS, "Use", FEW),
        ("real images", len(real.images) if real else width, 2, "Give --reference", FEW_REAL),
    ):
        if count < fewest:
            raise features.ExtractorError(f"{count} {what} are too few. {use} at least {fewest}.")
        if count < width and not allow_small:
            raise features.ExtractorError(
                f"{count:,} {what} are fewer than the {width:,} features of {extractor.name}, "
                f"which makes the Fréchet distance far too large. {use} more (10,000 or 50,000 are "
                "usual), or add --allow-small to get marked scores."
            )
        marks += [mark.format(count, width)] * (count < width)
    return marks


def undefined_metrics(
    metrics: Sequence[str],
    shape: tuple[int, int, int],
    real: images.RealImages | None,
    extractor: Extractor,
    run_images: images.RunImages,
) -> dict[str, str]:
    """Return the reasons of metrics that are not defined for a set of images, before it is sampled.

    shape: (C, H, W) of the images. real: None if the reference is a mean and a covariance.
    Raises ConfigError if no metric is defined.
    """
    reasons: dict[str, str] = {}
    training, few = run_images.training, "{} {} images are too few, {} are needed".format
    if real is None:
        reasons["kid"] = reasons["prc"] = "the reference is a mean and a covariance, not images"
    elif len(real.images) < 2 * scoring.BLOCKS:
        reasons["kid"] = reasons["prc"] = few(len(real.images), "real", 2 * scoring.BLOCKS)
    if "is" in metrics and extractor.extract(np.zeros((1, *shape), np.uint8)).logits is None:
        reasons["is"] = "the extractor has no classes; use inception or a classifier"
    if training is None:
        reasons["copies"] = run_images.reason
    elif len(training.images) < copying.MIN_IMAGES:
        reasons["copies"] = few(len(training.images), "training", copying.MIN_IMAGES)
    reasons = {metric: reasons[metric] for metric in metrics if metric in reasons}
    if metrics and len(reasons) == len(metrics):
        listed = "; ".join(f"{metric}: {why}" for metric, why in reasons.items())
        raise ConfigError(f"no metric of --metrics is available ({listed}). Choose others.")
    return reasons


def evaluate(
    path: Path,
    against: features.Against,
    drawing: images.Drawing,
    *,
    num: int | None = None,
    metrics: Sequence[str] = tuple(METRICS),
    first_seed: int | None = None,
    out: Path | None = None,
) -> tuple[str, Path]:
    """Score a set of images, and return the table and the folder of the scores.

    path: a run, a checkpoint or a .safetensors file, whose model samples `num` images (10,000) from
    `first_seed` (0) on; or a folder, zip or npz of images, of which `num` are taken (all).
    Raises ValueError: settings, images or labels that do not match, before any image is sampled.
    """
    features.check_installed()
    for name in metrics:
        if name == "bits":
            raise ConfigError("--metrics bits is a command of its own. Use fromnoise likelihood.")
        if name not in METRICS:
            raise ConfigError(f"--metrics {unknown_name(name, METRICS)}")
    if not (path.exists() or is_model(path)):
        raise ConfigError(
            f"there is no run, model or folder of images at {path.absolute()}. Check the path."
        )
    model = images.load_in_fp32(path, drawing) if is_model(path) else None
    flags = {"--weights": drawing.weights, "--seed": first_seed, "--batch-size": drawing.batch_size}
    given = [*drawing.sampling, *(flag for flag, value in flags.items() if value is not None)]
    if model is None and given:
        raise ConfigError(
            f"{given[0]} has no effect: {path.absolute()} holds images, not a model. Remove it."
        )
    reference = against.reference
    if model:
        generated, count, shape = None, num or DEFAULT_COUNT, model.image_shape
        run_images = images.run_images_of(run_folder_of(path))
        real = images.open_real(reference, shape, model.spec, run_images)
        conditional = images.has_labels(model, real)
        config = model.sampling_config(conditional=conditional, **drawing.sampling)
        folder = run_folder_of(path) / "evaluation"
        parts = ["set", *sampling_name(model.spec, config)]
    else:
        generated, config, run_images = images.read_images(path, num), None, images.NO_RUN
        count, shape = len(generated.images), generated.images.shape[1:]
        real = images.open_real(reference, shape)
        folder, parts = path.absolute().parent, ["set", path.stem]
    space = features.open_extractor(against, shape, drawing.device)
    parts += [space.name, Path(reference).stem, str(count)]
    folder = out or folder / "-".join(parts)
    records.require_no_scores(folder / records.METRICS_FILE)
    marks = check_enough_images(count, real, space, allow_small=against.allow_small)
    if space.name not in features.PRETRAINED:
        marks.append(
            f"Distances in the features of {space.name} are not FIDs. Compare them only with "
            "distances in the same features."
        )
    undefined = undefined_metrics(metrics, shape, real, space, run_images)
    real_features = images.open_reference(reference, real, space)
    if model and config:
        with progress_bar("images") as progress:
            generated = images.generate_images(
                model,
                count,
                config,
                labels_of=real,
                first_seed=first_seed or 0,
                batch_size=drawing.batch_size,
                loaded_from=str(path.absolute()),
                progress=progress,
            )
    assert generated is not None
    record = records.Metrics(
        date=records.now(),
        complete=False,
        versions=records.versions(*LIBRARIES),
        generated=generated.info,
        reference=real_features.info,
        extractor=space.info(),
        marks=marks,
        seconds={"drawing": generated.seconds},
    )
    started = time.perf_counter()
    with progress_bar("features") as progress:
        found = features.extract_features(space, generated.images, progress)
    subject = Subject(generated, *found, real_features, space, run_images, folder)
    record.seconds["features"] = time.perf_counter() - started
    for name in metrics:
        started = time.perf_counter()
        if name in undefined:
            record.missing[name] = undefined[name]
        else:
            record.add(METRICS[name](subject))
            record.seconds[name] = time.perf_counter() - started
        record.write(folder)
    record.complete, record.published = True, records.published_beside(record)
    return record.write(folder), folder


def sampling_name(spec: ModelSpec, config: SamplingConfig) -> list[str]:
    """Return the parts of a folder's name that tell the model and its sampling settings."""
    usual, sampler = spec.sampling, config.sampler
    parts = [f"{spec.step:06d}", spec.weights_name, sampler.name, str(config.steps)]
    stored = usual.sampler
    if stored.name != sampler.name:
        stored = check_component(Component(name=sampler.name), "sampling.sampler")
    parts += [f"{k}{v}" for k, v in sampler.options.items() if stored.options.get(k) != v]
    parts += [config.timesteps_name] if config.timesteps != usual.timesteps else []
    parts += [f"s{config.guidance:g}"] if config.guidance != 1 else []
    return [*parts, config.precision]
