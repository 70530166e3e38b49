"""The kinds of evaluation, and which options of `fromnoise evaluate` have an effect on which."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from fromnoise.config.errors import ConfigError
from fromnoise.model.spec import FILE_OF

KINDS = {
    "labels": "scores by labels (--conditions, --labels, --cycle-classes)",
    "drawn": "a set of images that a model draws",
    "found": "a set of images that are there",
    "bits": "bits per dimension alone (--metrics bits)",
}
_DRAWN, _SETS = ("labels", "drawn"), ("drawn", "found")
BELONGS = {  # options that are not here have an effect on every kind
    "--num": ("labels",),
    "--num-images": _SETS,
    "--reference": _SETS,
    "--extractor": _SETS,
    "--features-weights": _SETS,
    "--allow-small": _SETS,
    "--metrics": (*_SETS, "bits"),
    "--classifier": ("labels", *_SETS),
    "--weights": (*_DRAWN, "bits"),
    "--seed": _DRAWN,
    "--batch-size": _DRAWN,
    "--precision": _DRAWN,
    "--sampler": _DRAWN,
    "--steps": _DRAWN,
    "--eta": _DRAWN,
    "--variance": _DRAWN,
    "--timesteps": _DRAWN,
    "--guidance": _DRAWN,
    "--guidance-interval": _DRAWN,
    "--guidance-rescale": _DRAWN,
    "--clamp": _DRAWN,
}


def kind_of(path: Path, *, by_labels: bool, metrics: Sequence[str]) -> str:
    """Which of KINDS is meant. Raises ConfigError where there is nothing at `path`, or no model."""
    if not path.exists():
        raise ConfigError(
            f"there is no run, model or folder of images at {path.absolute()}; give a run, a "
            "checkpoint or a .safetensors file, or images: a folder, zip or npz"
        )
    if by_labels:
        return "labels"
    if set(metrics) == {"bits"} and not is_model(path):
        raise ConfigError(
            f"--metrics bits needs the model of a run, and {path.absolute()} holds images; give "
            "the run, or other metrics"
        )
    if set(metrics) == {"bits"}:
        return "bits"
    return "drawn" if is_model(path) else "found"


def is_model(path: Path) -> bool:
    """Whether a path is a run, a checkpoint or a model file; otherwise it holds images."""
    inside = ("checkpoints", "recipe.yaml", *FILE_OF.values())
    return path.suffix == ".safetensors" or any((path / name).exists() for name in inside)


def refuse_without_effect(kind: str, options: Iterable[str]) -> None:
    """Raise ConfigError for the first of the options that were given which does not belong here."""
    for option in options:
        kinds = BELONGS.get(option, KINDS)
        if kind not in kinds:
            raise ConfigError(
                f"{option} has no effect on {KINDS[kind]}: it belongs to "
                f"{' or '.join(KINDS[k] for k in kinds)}; leave it out"
            )
