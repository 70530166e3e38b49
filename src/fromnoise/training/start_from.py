"""Start a training from the weights of another model: `training.start_from`."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.config.components import dotted_components
from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import Denoiser
from fromnoise.model.model import build_network, load
from fromnoise.model.spec import ModelSpec

MEANING: dict[str, Any] = {  # fields of ModelSpec that must be equal for the weights to fit
    "include": {"network": True, "diffusion": {"prediction", "variance_reading"}},
    "exclude": {"network": {"dropout"}},
}
logger = logging.getLogger("fromnoise")


def load_initial_weights(denoiser: Denoiser, spec: ModelSpec, path: Path) -> None:
    """Load the weights of another model, without its optimiser and its step count.

    Channels, labels, augmentation and size may differ: the layers whose shape or meaning depends on
    them keep their random weights, and each is logged. In a layer with a column for each label, the
    columns of the labels that both models have are loaded.
    path: as in `load`. Raises ConfigError if the weights have another meaning: another network or
    prediction. Another schedule or range of the images is a warning.
    """
    other = load(path, device="cpu")
    theirs, ours = (dotted_components(each.model_dump(**MEANING)) for each in (other.spec, spec))
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
    new, old = denoiser.network.state_dict(), other.denoiser.network.state_dict()
    fresh = {_layer(k) for k in new if k not in old or old[k].shape != new[k].shape}
    if _columns(spec) != _columns(other.spec):
        fresh |= condition_layers(spec)
    kept = {k: v for k, v in old.items() if k in new and _layer(k) not in fresh}
    mixed = {
        k: v
        for k in new.keys() & old.keys()
        if _layer(k) in fresh and (v := _by_label(new[k], old[k], spec, other.spec)) is not None
    }
    denoiser.network.load_state_dict({**new, **kept, **mixed})
    for layer in sorted(map(_layer, mixed)):
        known = set(_columns(spec)) & set(_columns(other.spec))
        logger.info(
            "%s is loaded for %d of %d labels. The others keep their random weights",
            *(layer, len(known), len(_columns(spec))),
        )
    for layer in sorted(fresh - set(map(_layer, mixed))):
        logger.info("%s is not loaded. It keeps its random weights", layer)
    for layer in sorted({_layer(k) for k in old.keys() - new.keys()}):
        logger.info("%s of %s is not used", layer, path)
    if other.denoiser.schedule.alpha_bar.tolist() != denoiser.schedule.alpha_bar.tolist():
        logger.warning("%s was trained with another schedule and has to learn this one", path)
    if other.spec.data_range != (-1.0, 1.0):
        logger.warning(
            "%s was trained on images in %s and has to learn that they are in [−1, 1]",
            *(path, list(other.spec.data_range)),
        )
    if other.spec.levels != spec.levels:
        logger.warning(
            "%s was trained on images of %s, and has to learn %s",
            *(path, other.spec.levels, spec.levels),
        )
    logger.info("starting from the %s weights of %s", other.spec.weights, path)


def condition_layers(spec: ModelSpec) -> set[str]:
    """Return the layers of a network whose shape depends on the number of labels."""
    more = spec.model_copy(update={"label_names": (*spec.label_names, "another")})
    with torch.device("meta"):  # shapes alone
        one, other = (build_network(each).state_dict() for each in (spec, more))
    return {_layer(k) for k, v in one.items() if k in other and v.shape != other[k].shape}


def _by_label(new: Tensor, old: Tensor, ours: ModelSpec, theirs: ModelSpec) -> Tensor | None:
    """Return the new weights (C, K) with the old ones in shared columns. None without any."""
    here, there = _columns(ours), _columns(theirs)
    known = [column for column in here if column in there]
    if not known or new.shape[1:] != (len(here),) or old.shape != (len(new), len(there)):
        return None
    mixed = new.clone()
    mixed[:, list(map(here.index, known))] = old[:, list(map(there.index, known))]
    return mixed


def _columns(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the columns of the condition, in order."""
    return *spec.label_names, *spec.augment_columns


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name
