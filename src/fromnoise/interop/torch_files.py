"""Read checkpoint files of other programs safely, and describe the models in them.

A format is a function from a payload to an ImportedModel, or None if the payload has another
format. The payload is the result of `torch.load` with `weights_only=True`, which executes no code.
"""

import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError, read_tensors

Payload = Mapping[str, Any]
Weights = Mapping[str, Tensor]


class ImportedModel(NamedTuple):
    """A model of another program, converted to fromnoise's names.

    spec: known keys of `ModelSpec`: `network` {name, options}, `diffusion`, `sampling`, `channels`,
    `size`, `label_names`, `data_range`. Sizes are inferred from the tensors, the rest are that
    program's defaults. ema, raw: state dicts of the network here, at least one of them. notes:
    assumptions for the user, one line each.
    """

    spec: dict[str, Any]
    ema: Weights | None
    raw: Weights | None
    step: int = 0
    notes: Sequence[str] = ()


Format = Callable[[Payload], ImportedModel | None]


def imported(
    network: Mapping[str, Any],
    raw: Weights,
    notes: Sequence[str],
    *,
    ema: Weights | None = None,
    step: int = 0,
    side: int = 32,
    betas: int | Tensor = 1000,
    prediction: str = "eps",
    variance: str = "large",
    clamp: bool = True,
    **more: Any,
) -> ImportedModel:
    """Return an ImportedModel that samples as its program does.

    betas: β_1 … β_T, or the T of a linear schedule from 1e-4 to 0.02. more: other keys of `spec`.
    """
    T, schedule = betas, {"name": "linear", "beta_1": 1e-4, "beta_T": 0.02}
    if isinstance(betas, Tensor):
        T, schedule = len(betas), {"name": "custom", "betas": betas.tolist()}
    stem = "stem.weight" if "stem.weight" in raw else "stem.conv1.weight"
    spec = {
        "network": network,
        "diffusion": {"T": T, "schedule": schedule, "prediction": prediction},
        "sampling": {"sampler": {"name": "ddpm", "variance": variance}, "steps": T, "clamp": clamp},
        "channels": raw[stem].shape[1],
        "size": [side, side],
        **more,
    }
    return ImportedModel(spec, ema, raw, step, notes)


def read_payload(file: Path) -> Payload:
    """Return the content of a torch or safetensors file.

    Raises CheckpointError if it cannot be read or if its pickle would execute code.
    """
    if file.is_dir():
        raise CheckpointError(f"{file.absolute()} is a folder. Give a file in it.")
    if not file.is_file():
        raise CheckpointError(f"{file.absolute()} does not exist. Give a checkpoint file.")
    if file.suffix == ".safetensors":
        return read_tensors(file).tensors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that it can read
            payload = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"would run code ({code[1]})" if code else "is invalid or has unknown objects"
        raise CheckpointError(
            f"{file} was not loaded, because its pickle {reason}. Load it with the program that "
            "wrote it, and save only its state_dict()."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of many kinds for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file} is not a checkpoint of torch ({reason}).") from error
    if not isinstance(payload, Mapping) or not all(isinstance(key, str) for key in payload):
        raise CheckpointError(
            f"{file} holds a {type(payload).__name__}. Give a state dict or a dict of state dicts."
        )
    return payload


def strip_prefixes(weights: Any, *prefixes: str) -> dict[str, Any]:
    """Return a state dict without these prefixes, removed from each name in this order.

    "module." is of DataParallel, "_orig_mod." of torch.compile. Anything else is empty.
    """
    if not isinstance(weights, Mapping):
        return {}
    return rename(weights, [(f"^{re.escape(prefix)}", "") for prefix in prefixes])


def network_in(state: Any, names: Set[str], inside: str = "") -> dict[str, Any] | None:
    """Return the weights of a state dict if `names` are among them, else None.

    inside: a prefix of the network's weights among others, which the state dict may have.
    """
    weights = strip_prefixes(state, "module.", "_orig_mod.")
    weights = select(weights, inside) or weights
    return weights if names <= weights.keys() else None


def select(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the weights under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def rename(weights: Mapping[str, Any], renames: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Apply every (pattern, replacement) of `re.sub` to every name, in this order."""
    result = {}
    for name, tensor in weights.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def preview_keys(payload: Payload, limit: int = 8) -> str:
    """Return the first keys of a payload for an error message."""
    keys = list(payload)
    more = f", … ({len(keys)} keys)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
