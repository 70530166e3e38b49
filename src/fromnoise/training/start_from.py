"""`training.start_from`: the initial weights of a run, from another model."""

import logging
from pathlib import Path
from typing import Any

from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import Denoiser
from fromnoise.model.model import load
from fromnoise.model.spec import ModelSpec

logger = logging.getLogger("fromnoise")


def load_initial_weights(denoiser: Denoiser, spec: ModelSpec, path: Path) -> None:
    """Load the weights of another model, without its optimiser and its step count.

    path: as in `load`. Raises ConfigError if the weights have another meaning: another network,
    prediction or other labels. Another schedule or range of the images is a warning.
    """
    other = load(path, device="cpu")
    theirs, ours = _meaning(other.spec), _meaning(spec)
    different = [
        f"{key} = {theirs.get(key)!r} (this recipe: {ours.get(key)!r})"
        for key in theirs | ours
        if theirs.get(key) != ours.get(key)
    ]
    if different:
        raise ConfigError(
            f"training.start_from: {path} has {', '.join(different)}, so its weights do not fit. "
            "Set the same values in the recipe."
        )
    denoiser.network.load_state_dict(other.denoiser.network.state_dict())
    if other.denoiser.schedule.alpha_bar.tolist() != denoiser.schedule.alpha_bar.tolist():
        logger.warning("%s was trained with another schedule and has to learn this one", path)
    if other.spec.data_range != (-1.0, 1.0):
        logger.warning(
            "%s was trained on images in %s and has to learn that they are in [−1, 1]",
            *(path, list(other.spec.data_range)),
        )
    logger.info("starting from the %s weights of %s", other.spec.weights, path)


def _meaning(spec: ModelSpec) -> dict[str, Any]:
    """Return what gives the weights their meaning, by its key."""
    options = {f"network.{k}": v for k, v in spec.network.options.items() if k != "dropout"}
    return {
        "network.name": spec.network.name,
        **options,
        "diffusion.prediction": spec.diffusion.prediction,
        "diffusion.variance_reading": spec.diffusion.variance_reading,
        "channels": spec.channels,
        "label_names": spec.label_names,
    }
