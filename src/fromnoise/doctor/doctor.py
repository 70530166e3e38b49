"""The doctor: what a recipe will cost and come to on this machine, before it is trained."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Recipe
from fromnoise.data import DOWNLOADABLE
from fromnoise.diffusion import Denoiser
from fromnoise.doctor.costs import attention, disk, memory, pictures, time
from fromnoise.doctor.findings import Facts, Finding
from fromnoise.doctor.learning import (
    average_of_weights,
    batch,
    images_seen,
    learning_rate,
    mirrored,
    network,
    noise_at_the_end,
)
from fromnoise.doctor.probe import measure, memory_free
from fromnoise.model.spec import ModelSpec
from fromnoise.training.precision import Computation

SECONDS = 20.0  # for the command
SECONDS_BEFORE_TRAINING = 4.0  # and a little for all else: five
CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    images_seen,
    batch,
    learning_rate,
    mirrored,
    noise_at_the_end,
    average_of_weights,
    network,
    attention,
    memory,
    time,
    pictures,
    disk,
)
logger = logging.getLogger("fromnoise")


def check(facts: Facts) -> list[Finding]:
    """All findings, in the order of CHECKS."""
    return [each(facts) for each in CHECKS]


def facts_of(
    recipe: Recipe,
    spec: ModelSpec,
    denoiser: Denoiser,
    *,
    num_images: int | None,
    folder: Path,
    seconds: float,
    computation: Computation | None = None,
) -> Facts:
    """Everything that the checks look at; the network is measured in about `seconds`.

    folder: where the run is to be. computation: as in `probe.measure`. Changes nothing.
    """
    shape = (spec.channels, *spec.size)
    device = next(denoiser.parameters()).device
    there = next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists()
    )
    free = memory_free(device)
    return Facts(
        recipe=recipe,
        shape=shape,
        measured=measure(
            denoiser,
            recipe.training,
            recipe.diffusion.objective(),
            shape,
            num_labels=len(spec.label_names),
            seconds=seconds,
            computation=computation,
        ),
        device=str(device),
        num_images=num_images,
        label_names=spec.label_names,
        memory_free=free,
        disk_free=shutil.disk_usage(there).free,
    )


def warn(
    recipe: Recipe,
    spec: ModelSpec,
    denoiser: Denoiser,
    *,
    num_images: int,
    folder: Path,
    computation: Computation,
) -> None:
    """Log what is not ok, in five seconds at most; whatever happens here, the training goes on."""
    try:
        facts = facts_of(
            recipe,
            spec,
            denoiser,
            num_images=num_images,
            folder=folder,
            seconds=SECONDS_BEFORE_TRAINING,
            computation=computation,
        )
        findings = check(facts)
    except (ValueError, OSError, RuntimeError, MemoryError, ArithmeticError) as error:
        logger.warning("the doctor could not look at it (%s)", error)
        return
    for finding in findings:
        if finding.level != "ok":
            logger.warning("%s", finding)


def spec_without_images(recipe: Recipe) -> tuple[ModelSpec, int | None]:
    """The model as far as it is known while the images are not here, and how many they will be.

    Raises ConfigError where nothing says their size.
    """
    data = recipe.data
    known = DOWNLOADABLE.get(data.source)
    size = data.size or (known and known.shape[1:])
    if not size:
        raise ConfigError(
            "data.path is missing, so the size of the images is not known; give --data PATH, or "
            "data.size"
        )
    return ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=data.channels or (known.shape[0] if known else 3),
        size=size,
        label_names=tuple(map(str, range(known.classes))) if known and data.labels else (),
        source=data.source,
    ), known and known.counts.get(data.split)
