"""The doctor: check the settings, time and memory of a training before it starts."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Data
from fromnoise.data import DOWNLOADABLE, ImageSet
from fromnoise.data.errors import NotAvailable
from fromnoise.diffusion import Denoiser
from fromnoise.doctor.checks import CHECKS, Facts, Finding
from fromnoise.doctor.cost import free_memory, measure
from fromnoise.model.model import build_denoiser, select_device
from fromnoise.training.loop import Setup
from fromnoise.training.precision import Computation, choose_computation
from fromnoise.training.run import open_data, prepare, resolve_recipe
from fromnoise.training.state import TrainingState

SECONDS = 20.0  # for the command
SECONDS_BEFORE_TRAINING = 4.0  # for the measurement, 5 in all
logger = logging.getLogger("fromnoise")


def diagnose(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Check the settings, time and memory of a training on this machine, in about 20 seconds.

    Arguments and errors are those of `fromnoise.train`. Nothing is trained, written or downloaded.
    If the images are not on this machine, some findings are incomplete.
    """
    resolved, folder = resolve_recipe(recipe, out, data, overrides)
    try:
        images = open_data(resolved, download=False)
    except NotAvailable:
        images = stand_in(resolved.data)
    setup = prepare(resolved, images, folder)
    settings = setup.recipe.training
    denoiser = build_denoiser(setup.spec).to(select_device(settings.device))
    computation = choose_computation(settings, denoiser, settings.steps)
    return check(setup, denoiser, computation, SECONDS)


def log_warnings(setup: Setup, state: TrainingState) -> None:
    """Log the findings that are not ok, in at most five seconds. An error only logs a warning."""
    try:
        findings = check(setup, state.denoiser, state.computation, SECONDS_BEFORE_TRAINING)
    except (ValueError, OSError, RuntimeError, MemoryError, ArithmeticError) as error:
        logger.warning("the doctor failed (%s)", error)
        return
    for finding in findings:
        if finding.level != "ok":
            logger.warning("%s", finding)


def check(
    setup: Setup, denoiser: Denoiser, computation: Computation, seconds: float
) -> list[Finding]:
    """Return all findings, in the order of CHECKS. The network is measured in about `seconds`.

    Changes nothing. The run folder need not exist.
    """
    recipe, spec, images, folder, _ = setup
    device, folder = next(denoiser.parameters()).device, folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    cost, budget = measure(denoiser, recipe, spec, computation, seconds), recipe.training.budget
    if budget and cost.step_seconds:
        recipe = recipe.with_steps(max(1, round(budget / cost.step_seconds)))
    facts = Facts(
        recipe,
        spec,
        cost,
        computation._replace(compiled=False),  # the measured copy is not compiled
        len(images) or None,
        device=str(device),
        memory_free=free_memory(device),
        disk_free=shutil.disk_usage(existing).free,
    )
    return [each(facts) for each in CHECKS]


def stand_in(data: Data) -> ImageSet:
    """Return black images, which use no memory, in place of missing ones; 0 if unknown how many.

    Raises ConfigError if their size is unknown.
    """
    known = DOWNLOADABLE.get(data.source)
    size = data.size or (known and known.shape[1:])
    if not size:
        raise ConfigError(
            "data.path is missing, so the size of the images is unknown. Give --data PATH, or "
            "data.size."
        )
    channels, count, classes = data.channels or 3, 0, 0
    if known:
        channels, classes = data.channels or known.shape[0], known.classes
        count = known.counts.get(data.split, 0)
    images = np.broadcast_to(np.uint8(0), (count, channels, *size))
    labels = np.broadcast_to(np.int8(0), (count, classes))
    return ImageSet(images, labels, tuple(map(str, range(classes))), "", (), data.source)
