"""`training.start_from`: the first weights of a run from another model."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import Denoiser
from fromnoise.model.model import load
from fromnoise.model.spec import ModelSpec

logger = logging.getLogger("fromnoise")


def load_initial_weights(denoiser: Denoiser, spec: ModelSpec, path: Path) -> None:
    """Begin with the weights of another model; its optimiser and its steps stay behind.

    path: what `load` takes. Raises ConfigError where the weights would mean something else: another
    network, prediction or other labels. Another schedule or range of images is a warning.
    """
    other = load(path, device="cpu")
    different = [
        f"{key} = {theirs!r} (this recipe: {ours!r})"
        for key, theirs, ours in _differences(other.spec, spec)
    ]
    if different:
        raise ConfigError(
            f"training.start_from: {path} has {', '.join(different)}: its weights would mean "
            "something else here; make the recipe say the same"
        )
    denoiser.network.load_state_dict(other.denoiser.network.state_dict())
    if other.denoiser.schedule.alpha_bar.tolist() != denoiser.schedule.alpha_bar.tolist():
        logger.warning("%s was trained with another schedule: it has to learn this one", path)
    if other.spec.data_range != (-1.0, 1.0):
        logger.warning(
            "%s saw images in %s, and now sees them in [−1, 1]: it has to learn that first",
            path,
            list(other.spec.data_range),
        )
    logger.info("starting from the %s weights of %s", other.spec.weights, path)


def _differences(theirs: ModelSpec, ours: ModelSpec) -> Iterator[tuple[str, Any, Any]]:
    """What of two models must agree for the weights of the one to be those of the other."""

    def facts(spec: ModelSpec) -> dict[str, Any]:
        options = {f"network.{k}": v for k, v in spec.network.options.items() if k != "dropout"}
        return {
            "network.name": spec.network.name,
            **options,
            "diffusion.prediction": spec.diffusion.prediction,
            "diffusion.variance_reading": spec.diffusion.variance_reading,
            "channels": spec.channels,
            "label_names": spec.label_names,
        }

    before, now = facts(theirs), facts(ours)
    for key in [*before, *(key for key in now if key not in before)]:
        if before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)
