"""Scores during a training: the Fréchet distance of samples to the training images."""

import logging
import time
from pathlib import Path

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Evaluation
from fromnoise.data import ImageSet
from fromnoise.evaluation import features, images
from fromnoise.evaluation.metrics import blocks_of, frechet_scores
from fromnoise.model.model import Model
from fromnoise.model.spec import ModelSpec
from fromnoise.progress import format_duration
from fromnoise.training.log import RunLog, read_log
from fromnoise.training.loop import StopSignal
from fromnoise.training.state import TrainingState

logger = logging.getLogger("fromnoise")


class Stopped(Exception):
    """A stop signal arrived while a score was computed."""


def open_score_extractor(settings: Evaluation, spec: ModelSpec, device: str) -> features.Extractor:
    """Open the extractor of `evaluation.extractor`. Raises ValueError if this is impossible."""
    features.check_installed()
    classifier = settings.classifier if settings.extractor == "classifier" else None
    against = features.Against(extractor=settings.extractor, classifier=classifier)
    extractor = features.open_extractor(against, (spec.channels, *spec.size), device)
    if settings.num_images < extractor.width:
        raise ConfigError(
            f"evaluation.num_images = {settings.num_images:,} is fewer than the "
            f"{extractor.width:,} features of {extractor.name}, so its Fréchet "
            "distance would be far too large. Set a larger number, or another evaluation.extractor."
        )
    return extractor


def scored(run: Path, step: int) -> bool:
    """Return whether the log has the score of a step."""
    return any("evaluation" in row and row["step"] == step for row in read_log(run))


def score(
    state: TrainingState,
    spec: ModelSpec,
    data: ImageSet,
    settings: Evaluation,
    extractor: features.Extractor,
    log: RunLog,
    stop: StopSignal,
) -> None:
    """Sample images from the EMA weights, and log their distance to the training images.

    The row of the log has the Fréchet distance with its 95 % interval, and the seconds it took.
    A stop signal cancels the score, and no row is written. An error only logs a warning.
    """

    def check_signal(done: int, total: int) -> None:
        if stop.received:
            raise Stopped

    started = time.perf_counter()
    denoiser = state.denoiser.with_network(state.ema.module.eval())
    try:
        real = images.RealImages(data.as_bytes(), f"{data.source}, train")
        known = images.reference_of(real, extractor, progress=check_signal)
        model = Model(denoiser, spec)  # in fp32, so that scores do not depend on the device
        config = model.sampling_config(conditional=images.has_labels(model, real))
        samples = images.generate_images(
            model, settings.num_images, config, labels_of=real, progress=check_signal
        )
        found = features.extract_features(extractor, samples.images, check_signal).features
        distance = frechet_scores(blocks_of(found), known.mean, known.covariance).fid
    except Stopped:
        return
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        logger.warning("step %d: no score (%s)", state.step, error)
        return
    seconds = time.perf_counter() - started
    log.event(
        state.step,
        evaluation={
            "extractor": extractor.name,
            "num_images": settings.num_images,
            "precision": config.precision,
            "fid": distance._asdict(),
            "seconds": seconds,
        },
    )
    logger.info(
        "step %d: Fréchet distance %.4g [%.4g, %.4g] of %d images in the features of %s, in %s",
        *(state.step, *distance, settings.num_images, extractor.name, format_duration(seconds)),
    )
