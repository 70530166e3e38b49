"""Read a folder of diffusers: its configurations and its weights.

A pipeline has `model_index.json`, `unet/` and `scheduler/`, or in its oldest form the files of all
three in one folder. The folder of a U-Net alone has no schedule. A checkpoint of a training has the
averaged weights in `unet_ema/`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fromnoise.checkpoints import CheckpointError
from fromnoise.data.text import read_json
from fromnoise.interop import torch_files

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
SUPPORTED = "Give a UNet2DModel, unconditional or by class, with DDPMScheduler or DDIMScheduler."


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder that diffusers wrote."""
    return any((path / name).is_file() for name in (INDEX, CONFIG, f"unet/{CONFIG}"))


def read_folder(folder: Path) -> tuple[torch_files.Payload, Sequence[str]]:
    """Return the configurations and weights of a folder, and the names of skipped classes.

    Raises CheckpointError for another pipeline or U-Net, and for weights that are missing, damaged
    or unsafe to read; DataError for invalid JSON.
    """
    if folder.name == "unet" and (folder.parent / INDEX).is_file():
        folder = folder.parent  # with its scheduler
    unet, scheduler = (
        folder / name if (folder / name).is_dir() else folder for name in ("unet", "scheduler")
    )
    files = {INDEX: folder / INDEX, CONFIG: unet / CONFIG, SCHEDULER: scheduler / SCHEDULER}
    payload = {name: _object(file) for name, file in files.items() if file.is_file()}
    _check_classes(folder, payload)
    payload["unet"], left_out = _read_weights(unet)
    if (folder / "unet_ema").is_dir():
        payload["unet_ema"], more = _read_weights(folder / "unet_ema")
        left_out += more
    return payload, list(dict.fromkeys(left_out))


def _object(file: Path) -> dict[str, Any]:
    content = read_json(file, where=str(file))
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object. Give a folder that diffusers wrote.")
    return content


def _check_classes(folder: Path, payload: Mapping[str, dict[str, Any]]) -> None:
    """Raise CheckpointError for other parts than U-Net and scheduler, or other classes of them."""
    classes = {
        name: str(value[1])
        for name, value in payload.get(INDEX, {}).items()
        if isinstance(value, list) and len(value) == 2 and value[1]
    }
    kind = payload.get(INDEX, {}).get("_class_name", "pipeline")
    if others := sorted(classes.keys() - {"unet", "scheduler"}):
        raise CheckpointError(f"{folder} is a {kind} with {', '.join(others)}. {SUPPORTED}")
    if CONFIG not in payload:
        raise CheckpointError(f"{folder} is a {kind} without unet/{CONFIG}. {SUPPORTED}")
    for name, known in ((CONFIG, ["UNet2DModel"]), (SCHEDULER, ["DDPMScheduler", "DDIMScheduler"])):
        found = payload.get(name, {"_class_name": known[0]}).get("_class_name", "no class")
        if found not in known:
            raise CheckpointError(f"{name} of {folder} is of {found}. {SUPPORTED}")


def _read_weights(folder: Path) -> tuple[dict[str, Any], list[str]]:
    weights: dict[str, Any] = {}
    left_out: list[str] = []
    for file in _weight_files(folder):
        part, more = torch_files.read_payload(file)
        weights |= part
        left_out += more
    return weights, left_out


def _weight_files(folder: Path) -> list[Path]:
    """Return the file of the weights, or the files of its parts."""
    for suffix in ("safetensors", "bin"):
        file = folder / f"{WEIGHTS}.{suffix}"
        if file.is_file():
            return [file]
        index = folder / f"{file.name}.index.json"
        if not index.is_file():
            continue
        parts = _object(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
            raise CheckpointError(f"{index} has no weight_map. Copy or download it again.")
        names = sorted(set(parts.values()))
        missing = [n for n in names if Path(n).name != n or not (folder / n).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(names)} files of its weights: "
                f"{', '.join(missing[:3])}. Copy or download them into it."
            )
        return [folder / name for name in names]
    variants = sorted(
        path
        for suffix in ("safetensors", "bin")
        for path in folder.glob(f"{WEIGHTS}.*.{suffix}")  # .fp16.
    )
    if len(variants) == 1:
        return variants
    found = ", ".join(path.name for path in variants) or "none"
    raise CheckpointError(
        f"{folder} has no {WEIGHTS}.safetensors or .bin (variants: {found}). Copy, download or "
        "rename one."
    )
