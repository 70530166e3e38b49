"""The doctor: check what a recipe costs and learns on this machine, before the training."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Recipe
from fromnoise.data import DOWNLOADABLE
from fromnoise.data.errors import NotAvailable
from fromnoise.diffusion import Denoiser
from fromnoise.doctor.checks import CHECKS, Facts, Finding
from fromnoise.doctor.cost import free_memory, measure
from fromnoise.model.model import build_denoiser, select_device
from fromnoise.model.spec import ModelSpec
from fromnoise.training.loop import Setup
from fromnoise.training.precision import Computation, choose_computation
from fromnoise.training.run import model_spec, open_data, resolve_recipe, with_steps
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
    """Estimate what a training costs and learns on this machine, in about 20 seconds.

    Arguments and errors as in `fromnoise.train`. Nothing is trained, written or downloaded. If the
    images are not on this machine, the findings say what is unknown.
    """
    resolved, folder = resolve_recipe(recipe, out, data, overrides)
    try:
        images = open_data(resolved, download=False)
    except NotAvailable:
        spec, count = spec_without_images(resolved)
    else:
        spec, count = model_spec(resolved, images), len(images)
    if count is not None:
        resolved = with_steps(resolved, count)
    settings = resolved.training
    denoiser = build_denoiser(spec).to(select_device(settings.device))
    computation = choose_computation(settings, denoiser, settings.steps)
    return check(resolved, spec, denoiser, computation, folder, count, SECONDS)


def log_warnings(setup: Setup, state: TrainingState) -> None:
    """Log the findings that are not ok, in at most five seconds. An error only logs a warning."""
    recipe, spec, images, folder = setup
    known = state.denoiser, state.computation, folder, len(images)
    try:
        findings = check(recipe, spec, *known, SECONDS_BEFORE_TRAINING)
    except (ValueError, OSError, RuntimeError, MemoryError, ArithmeticError) as error:
        logger.warning("the doctor failed (%s)", error)
        return
    for finding in findings:
        if finding.level != "ok":
            logger.warning("%s", finding)


def check(
    recipe: Recipe,
    spec: ModelSpec,
    denoiser: Denoiser,
    computation: Computation,
    folder: Path,
    num_images: int | None,
    seconds: float,
) -> list[Finding]:
    """Return all findings, in the order of CHECKS. The network is measured in about `seconds`.

    folder: of the run, which need not exist. Changes nothing.
    """
    device = next(denoiser.parameters()).device
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    facts = Facts(
        recipe,
        spec,
        measure(denoiser, recipe, spec, computation, seconds),
        computation._replace(compiled=False),  # the measured copy is not compiled
        num_images,
        device=str(device),
        memory_free=free_memory(device),
        disk_free=shutil.disk_usage(existing).free,
    )
    return [each(facts) for each in CHECKS]


def spec_without_images(recipe: Recipe) -> tuple[ModelSpec, int | None]:
    """Return the spec of the model without its images, and their number if it is known.

    Raises ConfigError if their size is unknown.
    """
    data = recipe.data
    known = DOWNLOADABLE.get(data.source)
    size = data.size or (known and known.shape[1:])
    if not size:
        raise ConfigError(
            "data.path is missing, so the size of the images is unknown. Give --data PATH, or "
            "data.size."
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
