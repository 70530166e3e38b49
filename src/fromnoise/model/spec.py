"""`ModelSpec`: how a model file describes itself, and how to find one.

A model file is a .safetensors file of the network's weights. Its metadata hold the whole
specification, so that sampling needs no flag.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ValidationError
from torch import Tensor

from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError
from fromnoise.config.components import Component, Section, with_checked_components
from fromnoise.config.errors import ConfigError, unknown_name
from fromnoise.config.migration import migrate
from fromnoise.config.schema import Diffusion, SamplingConfig, repeated
from fromnoise.data.levels import Depth, Levels
from fromnoise.model.names import is_name, path_of
from fromnoise.pictures import SHOWN_WHOLE

METADATA_KEY = "fromnoise"
RECIPE_FILE = "recipe.yaml"  # of a run
Weights = Literal["ema", "raw"]
FILE_OF: dict[str, str] = {"ema": "ema.safetensors", "raw": "model.safetensors"}
EXPECTED = "Give a run folder, a checkpoint folder, a .safetensors file or a shipped model."
logger = logging.getLogger("fromnoise")


class PowerAverage(Section):
    """A power-function average of the weights; see `training/ema.py`."""

    length: float  # σ_rel
    updates: int  # of the weights, until its end
    error: float = 0.0  # relative, of its profile, if it was reconstructed


class ModelSpec(Section):
    """The description of a model: network, diffusion, sampling, and its images and labels."""

    format_version: int = checkpoints.FORMAT_VERSION
    network: Component
    diffusion: Diffusion
    sampling: SamplingConfig
    channels: int
    size: Annotated[tuple[int, int], repeated(2)]  # (H, W)
    fit: Literal["crop", "pad", "squash"] = "crop"  # how images were brought to this size
    background: tuple[int, int, int] = (255, 255, 255)
    white: int | None = None  # its value in images of 16 bits, if it is not 65535
    depth: Depth = 8  # of the images that it was trained on, and of its samples
    range: tuple[float, float] | None = None  # black and white of floats
    data_range: tuple[float, float] = (-1.0, 1.0)  # of x_0: black and white
    label_names: tuple[str, ...] = ()  # of the K columns of a condition
    augment_columns: tuple[str, ...] = ()  # of a condition, after the labels; zeros in sampling
    label_dropout: float | None = None  # share of partly labelled images; None: unknown
    weights: Weights = "raw"
    power_average: PowerAverage | None = None  # None: raw weights or the usual EMA
    step: int = 0
    source: str = ""  # of the training data

    @property
    def levels(self) -> Levels:
        """Return the stored values of its images."""
        return Levels.of(self.depth, white=self.white, range=self.range)

    @property
    def png_holds_all(self) -> bool:
        """Return whether a PNG holds all channels and bits of an image, as Pillow writes it."""
        return self.channels in SHOWN_WHOLE and (
            self.depth == 8 or (self.depth == 16 and self.channels == 1)
        )

    def metadata(self) -> dict[str, str]:
        """Return the specification as .safetensors metadata."""
        absent = set() if self.augment_columns else {"augment_columns"}  # as earlier versions
        absent |= {"depth", "range"} if self.depth == 8 else set()
        return {METADATA_KEY: self.model_dump_json(exclude=absent)}

    @property
    def cond_dim(self) -> int:
        """Return the number of columns of the network's condition: labels, then augmentation."""
        return len(self.label_names) + len(self.augment_columns)

    @property
    def weights_name(self) -> str:
        """Return `ema`, `raw`, or `ema0.1` for an average of another length."""
        return self.weights + (f"{self.power_average.length:g}" if self.power_average else "")

    def weights_info(self) -> dict[str, Any]:
        """Return the kind of weights and their step, for JSON."""
        fields = {"step", "weights", "power_average"}
        return self.model_dump(mode="json", include=fields, exclude_none=True)


def read_spec(metadata: Mapping[str, str], file: Path) -> ModelSpec:
    """Return the specification in the metadata of a model file. Old keys are migrated."""
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{file} has no model metadata. Give a file that fromnoise wrote.")
    try:
        tree = json.loads(metadata[METADATA_KEY])
        checkpoints.check_version(tree["format_version"], file)
        return with_checked_components(ModelSpec.model_validate(migrate(tree)))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error} Was it written by a later fromnoise?") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} has unreadable metadata: {detail}") from error


def read_model_file(
    path: Path, weights: Weights | None
) -> tuple[Path, ModelSpec, Mapping[str, Tensor]]:
    """Find and read the model file of a path; see `find_model_file`.

    Raises CheckpointError for other weights than requested, and for weights that are not finite.
    """
    file = find_model_file(path, weights)
    tensors, metadata = checkpoints.read_tensors(file)
    if broken := checkpoints.first_non_finite(tensors):
        raise CheckpointError(f"{file}: {broken} is not finite. Use an earlier checkpoint.")
    spec = read_spec(metadata, file)
    if weights is not None and weights != spec.weights:
        raise CheckpointError(f"{file} has {spec.weights} weights. Remove --weights {weights}.")
    return file, spec, tensors


def require_run(folder: Path) -> None:
    """Raise ConfigError if `folder` is not a run."""
    if not (folder / RECIPE_FILE).is_file():
        raise ConfigError(
            f"{folder.absolute()} is not a run: it has no {RECIPE_FILE}. Give a run folder."
        )


def is_model(path: Path) -> bool:
    """Return whether a path is a run, a checkpoint, a model file or a name, rather than images."""
    inside = ("checkpoints", RECIPE_FILE, *FILE_OF.values())
    within = any((path / name).exists() for name in inside)
    return path.suffix == ".safetensors" or within or is_name(path)


def find_model_file(path: Path, weights: Weights | None) -> Path:
    """Return the .safetensors file of a run folder, a checkpoint folder, a file or a name."""
    if weights is not None and weights not in FILE_OF:
        raise ValueError(f"weights = {unknown_name(weights, FILE_OF)}")
    path = path_of(path)
    if not path.exists():
        raise CheckpointError(f"there is no model at {path.absolute()}. {EXPECTED}")
    if path.is_file():
        return path
    lone = [path / name for name in FILE_OF.values() if (path / name).is_file()]
    of_training = [checkpoints.STATE, "optimizer.safetensors"]
    if lone and not any((path / name).exists() for name in of_training):  # `import` wrote it
        wanted = path / FILE_OF[weights] if weights else lone[0]
        if wanted not in lone:
            raise CheckpointError(f"{path} has {lone[0].name} only. Remove --weights {weights}.")
        return wanted
    name = FILE_OF[weights or "ema"]
    if (path / checkpoints.STATE).is_file():
        if damage := checkpoints.find_damage(path, file=name):
            raise CheckpointError(damage)
        return path / name
    newest, damaged = checkpoints.newest_checkpoint(path / "checkpoints", file=name)
    if newest is None:
        reason = "; ".join(damaged) or f"{path.absolute()} has no checkpoint"
        raise CheckpointError(f"{reason}. {EXPECTED}")
    for line in damaged:
        logger.warning("%s; using the earlier %s", line, newest.name)
    return newest / name


def run_folder_of(path: Path) -> Path:
    """Return the folder for outputs: the run, the folder of a lone file, or "." for a name."""
    if is_name(path):
        return Path()
    folder = path if path.is_dir() else path.parent
    if (folder / checkpoints.STATE).is_file():  # a checkpoint, which will be pruned
        return folder.parent.parent
    if path.is_file() and folder.name == "ema" and (folder.parent / "checkpoints").is_dir():
        return folder.parent
    return folder
