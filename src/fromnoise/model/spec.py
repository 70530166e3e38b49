"""What a model file says of itself, and where it lies.

A model file is a .safetensors file of the network's weights whose metadata holds the whole
`ModelSpec`, so that no flag has to be retyped to sample from it.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError
from fromnoise.config.components import Component, Section, with_checked_components
from fromnoise.config.errors import ConfigError, unknown
from fromnoise.config.recipe import Diffusion, Sampling

METADATA_KEY = "fromnoise"
Weights = Literal["ema", "raw"]
FILE_OF: dict[str, str] = {"ema": "ema.safetensors", "raw": "model.safetensors"}
logger = logging.getLogger("fromnoise")


class PowerAverage(Section):
    """Which average by a power of time a file holds; see `training/power_profiles.py`."""

    length: float  # σ_rel
    updates: int  # of the weights, until its end
    error: float = 0.0  # relative, of its profile, where it was made of others


class ModelSpec(Section):
    """What a model file says of itself."""

    format_version: int = checkpoints.FORMAT_VERSION
    network: Component
    diffusion: Diffusion
    sampling: Sampling
    channels: int
    size: tuple[int, int]  # (H, W)
    fit: Literal["crop", "pad", "squash"] = "crop"  # how images came to this size
    background: tuple[int, int, int] = (255, 255, 255)
    data_range: tuple[float, float] = (-1.0, 1.0)  # of x_0: black and white
    label_names: tuple[str, ...] = ()  # what the K numbers of a condition stand for
    label_dropout: float | None = None  # images that said only a part of it; None: not known
    weights: Weights = "raw"
    power_average: PowerAverage | None = None  # None: the weights are the raw or the usual ones
    step: int = 0
    source: str = ""  # the data it was trained on

    def metadata(self) -> dict[str, str]:
        """The specification as .safetensors metadata."""
        return {METADATA_KEY: self.model_dump_json()}

    @property
    def weights_name(self) -> str:
        """`ema`, `raw`, or `ema0.1` for an average of another length."""
        return self.weights + (f"{self.power_average.length:g}" if self.power_average else "")

    def weights_info(self) -> dict[str, Any]:
        """Which weights and of which step, for JSON."""
        said = {"step", "weights", "power_average"}
        return self.model_dump(mode="json", include=said, exclude_none=True)


def read_spec(metadata: Mapping[str, str], file: Path) -> ModelSpec:
    """The specification in the metadata of a model file."""
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{file} was not written by fromnoise: its metadata name no model")
    try:
        tree = json.loads(metadata[METADATA_KEY])
        checkpoints.check_version(tree["format_version"], file)
        spec = ModelSpec.model_validate(tree)
        return with_checked_components(spec)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}; was it written by a later fromnoise?") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: its metadata cannot be read: {detail}") from error


def find_model_file(path: Path, weights: Weights | None) -> Path:
    """The .safetensors file that a run folder, a checkpoint folder or a file stands for."""
    if weights is not None and weights not in FILE_OF:
        raise ValueError(f"weights {unknown(weights, FILE_OF)}")
    expected = "expected a run folder, a checkpoint folder or a .safetensors file"
    if not path.exists():
        raise CheckpointError(f"there is nothing at {path.absolute()}; {expected}")
    if path.is_file():
        return path
    lone = [path / name for name in FILE_OF.values() if (path / name).is_file()]
    of_training = [checkpoints.STATE, "optimizer.safetensors"]
    if lone and not any((path / name).exists() for name in of_training):  # `import` wrote it
        wanted = path / FILE_OF[weights] if weights else lone[0]
        if wanted not in lone:
            raise CheckpointError(f"{path} holds {lone[0].name} only, no {wanted.name}")
        return wanted
    if (path / checkpoints.STATE).is_file():
        why = checkpoints.find_damage(path)
        if why is not None:
            raise CheckpointError(why)
        return path / FILE_OF[weights or "ema"]
    newest, damaged = checkpoints.newest_checkpoint(path / "checkpoints")
    if newest is None:
        why = "; ".join(damaged) or f"{path.absolute()} has no checkpoint"
        raise CheckpointError(f"{why}; {expected}")
    for line in damaged:
        logger.warning("%s; using the earlier %s", line, newest.name)
    return newest / FILE_OF[weights or "ema"]


def run_folder_of(path: Path) -> Path:
    """The run that a model was loaded from, or the folder of its file: for what is made with it."""
    folder = path if path.is_dir() else path.parent
    if (folder / checkpoints.STATE).is_file():  # a checkpoint, which will be pruned
        return folder.parent.parent
    if path.is_file() and folder.name == "ema" and (folder.parent / "checkpoints").is_dir():
        return folder.parent
    return folder
