"""A score every so often, if the recipe asks for one: how far samples are from the images."""

import logging
import time
from collections.abc import Callable

import numpy as np

from fromnoise.classifier.classifier import load_classifier
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Evaluation
from fromnoise.data import ImageSet
from fromnoise.evaluation.features import Extractor, check_installed, in_parts, open_extractor
from fromnoise.evaluation.fid import moments_of
from fromnoise.evaluation.generated import generate_images
from fromnoise.evaluation.images import RealImages
from fromnoise.evaluation.metrics import BLOCKS, frechet_scores
from fromnoise.evaluation.reference import reference_of
from fromnoise.model.model import Model, select_device
from fromnoise.model.spec import ModelSpec
from fromnoise.training.log import RunLog, format_duration
from fromnoise.training.state import TrainingState

logger = logging.getLogger("fromnoise")


class Stopped(Exception):
    """A signal came while images were drawn."""


def open_scorer(settings: Evaluation, spec: ModelSpec, device: str) -> Extractor | None:
    """The extractor of a recipe; None where it asks for no scores.

    Raises ValueError, before a step is trained, where the extractor cannot be had.
    """
    if not settings.every:
        return None
    check_installed()
    if settings.extractor == "classifier" and settings.classifier is None:
        raise ConfigError(
            "evaluation.extractor is classifier, and evaluation.classifier is missing: the folder of one, "
            "which `fromnoise classifier train` writes"
        )
    classifier = (
        None if settings.classifier is None else load_classifier(settings.classifier, device=device)
    )
    shape = (spec.channels, *spec.size)
    found = open_extractor(
        settings.extractor, shape, classifier=classifier, device=select_device(device)
    )
    if settings.num_images < found.width:
        raise ConfigError(
            f"evaluation.num_images = {settings.num_images:,} is fewer than the {found.width:,} "
            f"features of {found.name}, and the Fréchet distance of so few is far too large; set "
            "more, or another evaluation.extractor"
        )
    return found


def score(
    state: TrainingState,
    spec: ModelSpec,
    data: ImageSet,
    settings: Evaluation,
    extractor: Extractor,
    log: RunLog,
    stopped: Callable[[], object],
) -> None:
    """Draw images by the averaged weights, and log their distance to the training images.

    The row of the log has the Fréchet distance with its 95 % interval and what it cost in seconds.
    Given up, without a row, as soon as `stopped()` is true.
    """

    def look(done: int, total: int) -> None:
        if stopped():
            raise Stopped

    started = time.perf_counter()
    denoiser = state.denoiser.with_network(state.ema.module.eval())
    try:
        images = RealImages(data, f"{data.source}, train")
        real = reference_of(images, extractor, progress=look)
        model = Model(denoiser, spec, precision=state.sampling_precision)
        config = model.sampling_config()
        drawn = generate_images(model, settings.num_images, config, labels_of=images, progress=look)
        parts = [part.features for _, part in in_parts(extractor, drawn.images, look)]
        blocks = [moments_of(block) for block in np.array_split(np.concatenate(parts), BLOCKS)]
        distance, _ = frechet_scores(blocks, real.mean, real.covariance)
    except Stopped:
        return
    except (
        ValueError,
        OSError,
        RuntimeError,
        MemoryError,
    ) as error:  # a night's training is worth more than a score
        logger.warning("step %d: no score (%s)", state.step, error)
        return
    seconds = time.perf_counter() - started
    log.event(
        state.step,
        evaluation={
            "extractor": extractor.name,
            "num_images": settings.num_images,
            "fid": distance._asdict(),
            "seconds": seconds,
        },
    )
    logger.info(
        "step %d: Fréchet distance %.4g [%.4g, %.4g] of %d images in the features of %s, in %s",
        *(state.step, *distance, settings.num_images, extractor.name, format_duration(seconds)),
    )
