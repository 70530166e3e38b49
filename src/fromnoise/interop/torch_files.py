"""Read checkpoint files of other programs safely, and describe the models in them.

A format is a function from a payload to an ImportedModel, or None if the payload has another
format. The payload is the result of `torch.load` with `weights_only=True`, which executes no code.
`find_networks` finds a network in it under any wrapper and any prefix.
"""

import builtins
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError, read_tensors
from fromnoise.interop.other_files import refuse_other_files

Payload = Mapping[str, Any]
Weights = Mapping[str, Tensor]
# components of names that only wrap: of DataParallel, torch.compile, FSDP, activation checkpoints
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
AVERAGED = "n_averaged"  # beside the weights of torch's AveragedModel
DEPTH = 5  # of nested dicts
MAX_LEFT_OUT = 100  # classes of one file


class ImportedModel(NamedTuple):
    """A model of another program, converted to fromnoise's names.

    spec: known keys of `ModelSpec`: `network` {name, options}, `diffusion`, `sampling`, `channels`,
    `size`, `label_names`, `data_range`. Sizes are inferred from the tensors, the rest are that
    program's defaults. ema, raw: state dicts of the network here, at least one of them. assumed:
    dotted keys of values that the file lacks, each with the reason for its value. notes: facts for
    the user, one line each. arrange: reorders the rows of both, if the order depends on options of
    the network that the user may set.
    """

    spec: dict[str, Any]
    ema: Weights | None
    raw: Weights | None
    step: int = 0
    assumed: Mapping[str, str] = {}
    notes: Sequence[str] = ()
    arrange: Callable[[Mapping[str, Any], Weights], Weights] | None = None


Format = Callable[[Payload], ImportedModel | None]
SCHEDULE: Sequence[str] = (
    "diffusion.T",
    "diffusion.schedule",
    "diffusion.schedule.beta_1",
    "diffusion.schedule.beta_T",
)


def imported(
    network: Mapping[str, Any],
    weights: "Networks",
    convert: Callable[[Weights], Weights],
    *,
    assumed: Mapping[str, str],
    notes: Sequence[str] = (),
    step: int = 0,
    side: int = 32,
    betas: int | Tensor = 1000,
    schedule: Mapping[str, Any] | None = None,
    prediction: str = "eps",
    variance: str = "large",
    clamp: bool = True,
    **more: Any,
) -> ImportedModel:
    """Return an ImportedModel that samples as its program does.

    convert: converts the program's names and shapes to those here. betas: β_1 … β_T, or the T of
    `schedule`, by default a linear one from 1e-4 to 0.02. more: other keys of `spec`.
    """
    T = betas
    if isinstance(betas, Tensor):
        T, schedule = len(betas), {"name": "custom", "betas": betas.tolist()}
    ema, raw = (None if part is None else convert(part.weights) for part in weights)
    some = ema or raw or {}
    stem = "stem.weight" if "stem.weight" in some else "stem.conv1.weight"
    spec = {
        "network": network,
        "diffusion": {
            "T": T,
            "schedule": schedule or {"name": "linear", "beta_1": 1e-4, "beta_T": 0.02},
            "prediction": prediction,
        },
        "sampling": {"sampler": {"name": "ddpm", "variance": variance}, "steps": T, "clamp": clamp},
        "channels": some[stem].shape[1],
        "size": [side, side],
        **more,
    }
    return ImportedModel(spec, ema, raw, step, assumed, notes)


class _Items(list[Any]):
    """Replaces an object that is filled like a list, and accepts attributes."""


class _Class:
    """Replaces a class or function that is not loaded, and returns an empty container.

    Of the types that torch's unpickler fills, a Counter accepts both items and attributes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.__new__: Any = lambda _, *arguments: self(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        made: Any = _Items() if self.name == "collections.deque" else Counter()
        made.left_out = self.name
        made.__setstate__ = lambda state: None
        return made


def read_payload(file: Path) -> tuple[Payload, Sequence[str]]:
    """Return the content of a torch or safetensors file, and the names of skipped classes.

    Objects of unknown classes are skipped, and their code never runs. The errors of torch are not
    shown, because they advise to load unsafely. Raises CheckpointError if the file is not a
    checkpoint or is damaged, and if its pickle calls a function of Python.
    """
    refuse_other_files(file)
    with file.open("rb") as opened:
        if opened.read(9)[8:] == b"{" or file.suffix == ".safetensors":
            return read_tensors(file).tensors, ()
    classes: dict[str, Any] = {}
    while True:
        try:
            payload = _load(file, classes)
            break
        except pickle.UnpicklingError as error:
            code = re.search(r"GLOBAL ([\w.]+)", str(error))
            name = code[1] if code else ""
            if name in classes or not _is_foreign(name) or len(classes) >= MAX_LEFT_OUT:
                raise not_loaded(file, [name] if name else list(classes)) from None
            classes[name] = _Class(name)
        except MemoryError:
            raise
        except Exception as error:  # damaged files raise many kinds
            if classes:
                raise not_loaded(file, list(classes)) from None
            raise CheckpointError(f"{file} {_problem(error)}") from None
    if getattr(payload, "left_out", None):
        raise not_loaded(file, list(classes))
    if not isinstance(payload, Mapping) or not all(isinstance(key, str) for key in payload):
        unnamed = ", with keys that are not strings" * isinstance(payload, Mapping)
        raise CheckpointError(
            f"{file} holds a {type(payload).__name__}{unnamed}. Give a state dict or a dict of "
            "state dicts."
        )
    return payload, list(classes)


def _is_foreign(name: str) -> bool:
    """Return whether a global of a pickle is of another module, or a type of Python such as `list`.

    torch names builtins of Python without their module. A call of `eval` or `getattr` is code.
    """
    return "." in name or isinstance(getattr(builtins, name, None), type)


def not_loaded(file: Path, classes: Sequence[str]) -> CheckpointError:
    """Return the error for a pickle whose weights cannot be read without running code."""
    reason = "is invalid or has unknown objects"
    if classes:
        reason = f"would run code ({', '.join(classes[:3])})"
    return CheckpointError(
        f"{file} was not loaded, because its pickle {reason}. Load it with the program that "
        "wrote it, and save only its state_dict()."
    )


def _load(file: Path, classes: Mapping[str, Any]) -> Any:
    known: list[Any] = [(Counter, "collections.Counter"), (_Items, _Items.__qualname__)]
    for name, each in classes.items():
        known.append((each, name if "." in name else f"builtins.{name}"))
    with warnings.catch_warnings(), torch.serialization.safe_globals(known if classes else []):
        warnings.simplefilter("ignore")  # about pickle protocols that it can read
        return torch.load(file, map_location="cpu", weights_only=True)


def _problem(error: Exception) -> str:
    """Return the problem with a file, without torch's advice to load it unsafely."""
    text = str(error)
    if "TorchScript" in text:
        return "is a TorchScript program. Save the state_dict() of its network instead."
    if ".tar format" in text:
        return "is a tar archive. Unpack it, and give the checkpoint in it."
    reason = (text.splitlines() or [""])[0]
    if not reason or "weights_only" in reason:
        reason = type(error).__name__
    return (
        f"is not a checkpoint of torch, or is damaged ({reason.rstrip('.')}). Give a file that "
        "torch.save wrote, or .safetensors."
    )


class Network(NamedTuple):
    """The weights of one network in a file, and the tensors beside it: tables of the schedule."""

    weights: dict[str, Tensor]
    beside: dict[str, Tensor]
    place: str  # the prefix of each name, such as `ema.ema_model.model.`


class Networks(NamedTuple):
    """The averaged and the raw weights of one network, None if the file has none."""

    ema: Network | None
    raw: Network | None

    @property
    def first(self) -> Network:
        """Return one of the two, to infer options from."""
        network = self.raw or self.ema
        assert network is not None
        return network

    def __bool__(self) -> bool:
        return self.raw is not None or self.ema is not None


def state_dicts(payload: Payload) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dict of tensors in a payload, with its place in it, such as `ema.`.

    `WRAPPERS` are removed from all names, and values that are not tensors are skipped.
    """
    yield from _state_dicts(payload, "", DEPTH)


def _state_dicts(part: Mapping[Any, Any], place: str, depth: int) -> Iterator[Any]:
    tensors = {_unwrapped(str(k)): v for k, v in part.items() if isinstance(v, Tensor)}
    if tensors:
        yield place, tensors
    for key, inner in part.items():
        if depth and isinstance(inner, Mapping) and not hasattr(inner, "left_out"):
            inside = _unwrapped(str(key))
            yield from _state_dicts(inner, place + f"{inside}." * bool(inside), depth - 1)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def find_networks(payload: Payload, names: Set[str]) -> Networks:
    """Return the networks of a payload that have all of `names`, under any wrapper and prefix.

    Averaged weights have `ema` in their path, or are in torch's AveragedModel; others are raw.
    Raises CheckpointError if there are several of a kind that differ.
    """
    found: dict[str, dict[str, Network]] = {"ema": {}, "raw": {}, "copy": {}}
    anchor = min(names)
    for place, state in state_dicts(payload):
        ends = [name for name in state if name == anchor or name.endswith(f".{anchor}")]
        for prefix in dict.fromkeys(name.removesuffix(anchor) for name in ends):
            weights = select(state, prefix)
            if not names <= weights.keys():
                continue
            outside = re.sub(r"[^.]+\.$", "", prefix)
            averaged = weights.pop(AVERAGED, state.get(outside + AVERAGED)) is not None
            role = "ema" if averaged else _role(place + prefix)
            found[role][place + prefix] = Network(weights, select(state, outside), place + prefix)
    raw = found["raw"] or found["copy"]
    return Networks(_only(found["ema"]), _only(raw))


def _role(place: str) -> str:
    if "online" in place:  # the copy of the raw weights in the EMA of lucidrains
        return "copy"
    return "ema" if re.search(r"(^|[._])ema(?![a-z])|average|shadow", place.lower()) else "raw"


def _only(found: Mapping[str, Network]) -> Network | None:
    """Return the one network, which a file may have under several names."""
    first, *others = found.values() or [None]
    for other in others:
        assert first is not None
        assert other is not None
        if first.weights.keys() != other.weights.keys() or not all(
            torch.equal(tensor, other.weights[name]) for name, tensor in first.weights.items()
        ):
            places = ", ".join(place.rstrip(".") or "the top" for place in found)
            raise CheckpointError(
                f"holds {len(found)} such networks, in {places}. Save the state_dict() of one."
            )
    return first


def tensors_left_out(payload: Payload, networks: Networks) -> list[str]:
    """Return the places of tensors that are neither in the networks nor tables beside them."""
    places = tuple(network.place for network in networks if network is not None)
    found: dict[str, None] = {}
    for place, state in state_dicts(payload):
        for name in state:
            parts = f"{place}{name}".split(".")
            starts = [".".join(parts[:i]) for i in range(1, len(parts))]
            if not f"{place}{name}".startswith(places):
                outside = (s for s in starts if not any(p.startswith(f"{s}.") for p in places))
                found |= dict.fromkeys(list(outside)[:1])
    return list(found)


def step_of(payload: Payload) -> int:
    """Return the number of training steps of a checkpoint, 0 if it is unknown."""
    step = payload.get("step", payload.get("global_step", 0))
    return int(step) if isinstance(step, int | float | Tensor) else 0


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
    """Return the first keys of a payload for an error message, of its tensors if it has any."""
    keys = [place + name for place, state in state_dicts(payload) for name in state]
    keys = keys or list(payload)
    more = f", … ({len(keys)} keys)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
