"""Find a model by name: `emoji` is a model of the package, `hub:USER/MODEL` one of a model hub."""

import logging
from pathlib import Path

from fromnoise.checkpoints import CheckpointError, sha256
from fromnoise.config.errors import ConfigError, unknown_name

SHIPPED = Path(__file__).parents[1] / "shipped"
HUB = "hub:"
MODEL_FILE, CARD = "model.safetensors", "README.md"  # of a shared model
logger = logging.getLogger("fromnoise")


def shipped_models() -> dict[str, Path]:
    """Return the model files of the package by name."""
    return {file.parent.name: file for file in sorted(SHIPPED.glob(f"*/{MODEL_FILE}"))}


def card_of(name: str) -> str:
    """Return the card of a shipped model: its images, licence, training, scores and limits."""
    if name not in shipped_models():
        raise ConfigError(f"the model {unknown_name(name, shipped_models())}")
    return (SHIPPED / name / CARD).read_text(encoding="utf-8")


def is_name(model: Path) -> bool:
    """Return whether this names a model of the package or of the hub, and is no path."""
    return not model.exists() and (str(model) in shipped_models() or str(model).startswith(HUB))


def path_of(model: Path) -> Path:
    """Return the path of a model that is given by its name or its path. An existing path wins."""
    if is_name(model):
        return download(str(model)) if str(model).startswith(HUB) else shipped_models()[str(model)]
    if str(model) in shipped_models():
        logger.info("%s is the one in this folder, not the shipped model of that name", model)
    return model


def download(name: str) -> Path:
    """Return the local file of `hub:USER/MODEL`, or of its revision `hub:USER/MODEL@REVISION`.

    The cache of huggingface_hub gets the file; its settings and token apply. The file holds tensors
    and text, no code. Raises CheckpointError.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs huggingface_hub. Install it: pip install 'fromnoise[hub]'."
        ) from error
    try:
        file = Path(hf_hub_download(repository, MODEL_FILE, revision=revision or None))
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} cannot be downloaded: the hub does not answer. Check the network."
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{name} cannot be downloaded: {detail} Check the name, and your access (HF_TOKEN)."
        ) from error
    logger.info("%s: revision %s, SHA-256 %s", name, file.parent.name, sha256(file)[:12])
    return file
