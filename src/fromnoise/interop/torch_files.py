"""Weights that other programs trained → a model of ours: `fromnoise import`.

A format is a function: payload → Foreign, or None where the payload is not of its kind. The payload
is what `torch.load` read, with `weights_only=True`, so that nothing in the file is ever executed.
"""

import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError, read_tensors

Payload = Mapping[str, Any]
Weights = Mapping[str, Tensor]


class Foreign(NamedTuple):
    """A model that another program trained, in our words.

    spec: the keys of `ModelSpec` that are known: `network` {name, options}, `diffusion`,
    `sampling`, `channels`, `size`, `label_names`, `data_range`; sizes inferred from the tensors,
    the rest that system's defaults. ema, raw: state dicts of our network; at least one of them.
    notes: what was assumed, one line each, for the person to read.
    """

    spec: dict[str, Any]
    ema: Weights | None
    raw: Weights | None
    step: int = 0
    notes: Sequence[str] = ()


Format = Callable[[Payload], Foreign | None]


# what the readers of torch raise where bytes are not what they seemed to be
MALFORMED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    struct.error,
)


def read_payload(file: Path) -> Payload:
    """The content of a checkpoint of torch or of safetensors.

    Raises CheckpointError for a file that is neither, or whose pickle would execute code.
    """
    if file.is_dir():
        raise CheckpointError(f"{file.absolute()} is a folder; give the checkpoint inside it")
    if not file.is_file():
        raise CheckpointError(f"there is no file {file.absolute()}")
    if file.suffix == ".safetensors":
        return read_tensors(file).tensors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that it reads all the same
            payload = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise CheckpointError(
                f"{file} was refused: it is no checkpoint of torch, or its pickle asks for more "
                "than tensors and plain values"
            ) from error
        raise CheckpointError(
            f"{file} was refused: its pickle names code that would run on loading ({named[1]}); "
            "load it where it was written and save its state_dict() alone"
        ) from error
    except MALFORMED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file} is not a whole checkpoint of torch ({reason})") from error
    if not isinstance(payload, Mapping) or not all(isinstance(key, str) for key in payload):
        raise CheckpointError(
            f"{file} holds a {type(payload).__name__}; expected a state dict, or a dict of them"
        )
    return payload


def without_prefix(weights: Mapping[str, Any], *prefixes: str) -> dict[str, Any]:
    """The weights with these prefixes cut off wherever a name begins with them, in this order."""
    cut = {}
    for name, tensor in weights.items():
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        cut[name] = tensor
    return cut


def renamed(weights: Weights, renames: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Every name through every (pattern, replacement) of regular expressions, in this order."""
    result = {}
    for name, tensor in weights.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def seen(payload: Payload, at_most: int = 8) -> str:
    """The first keys of a payload, for an error message."""
    keys = list(payload)
    more = f", … ({len(keys)} keys)" if len(keys) > at_most else ""
    return ", ".join(keys[:at_most]) + more
