"""Import a checkpoint of another program as a model folder: `fromnoise import`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from torch import Tensor

from fromnoise import checkpoints
from fromnoise.config.checks import check_sampling
from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError, explain, unknown_name
from fromnoise.config.overrides import with_key, with_steps_of_list
from fromnoise.interop import (
    context_unet,
    diffusers_folder,
    diffusers_import,
    explainingai,
    lucidrains,
    mnist_tutorial,
    openai,
    pytorch_ddpm,
    torch_files,
)
from fromnoise.interop.structure import renamed_by_structure
from fromnoise.interop.torch_files import Format, ImportedModel, Payload
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import FILE_OF, ModelSpec

FORMATS: dict[str, Format] = {
    "explainingai": explainingai.explainingai,
    "zoubohao": pytorch_ddpm.zoubohao,
    "w86763777": pytorch_ddpm.w86763777,
    "mnist-tutorial": mnist_tutorial.mnist_tutorial,
    "lucidrains": lucidrains.lucidrains,
    "context-unet": context_unet.context_unet,
    "diffusers": diffusers_import.diffusers,
    "openai": openai.openai,
    "openai-new-attention": openai.openai_new_attention,
}
OVERRIDABLE = ("network.", "diffusion.", "sampling.", "size", "label_names", "data_range")
SHOWN_ITEMS = 3  # of a long list


class Imported(NamedTuple):
    """A model of a file, with its weights under the names here."""

    spec: ModelSpec
    files: Mapping[str, checkpoints.TensorFile]
    notes: Sequence[str]


def import_model(
    file: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[ModelSpec, Sequence[str]]:
    """Convert a checkpoint of another program to a model folder. Return the spec and the notes.

    file: a checkpoint, or a folder of diffusers.
    out: a new folder for `ema.safetensors` and `model.safetensors`, or for the one that the file
    has. format: a key of FORMATS, detected if None. overrides: dotted keys of settings that the
    file does not contain, as in {"diffusion.T": 500, "size": 64}. A note is one line: `assumed: `
    with a key and value that are neither in the file nor in `overrides`, or `note: ` with a fact.
    Raises CheckpointError, before anything is written, if the format is unknown, the file is
    damaged, or loading it would execute code.
    """
    file, out = Path(file), Path(out).absolute()
    checkpoints.require_empty_folder(out)
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format {unknown_name(format, FORMATS)}")
    is_folder = diffusers_folder.is_folder(file)
    read = diffusers_folder.read_folder if is_folder else torch_files.read_payload
    payload, left_out = read(file)
    found = _find(file, payload, [format] if format else list(FORMATS), overrides or {})
    if found is None:
        if left_out and not any(torch_files.state_dicts(payload)):
            raise torch_files.not_loaded(file, left_out)
        raise checkpoints.CheckpointError(_unknown(file, payload, format))
    notes = list(found.notes)
    if left_out:
        notes.append(f"note: objects that are not weights were left out: {_few(left_out)}")
    with checkpoints.atomic_folder(out) as writing:
        for target, content in found.files.items():
            checkpoints.write_tensors(writing / target, content)
    return found.spec, notes


def _find(
    file: Path, payload: Payload, formats: Sequence[str], overrides: Mapping[str, Any]
) -> Imported | None:
    """Return the model of a payload by the names of its tensors, else by their structure."""
    refused = None
    for name in formats:
        try:
            if (model := _read(file, payload, name)) is not None:
                return _with_rest(payload, name, _load(file, name, model, overrides))
        except checkpoints.CheckpointError as error:  # some names are known, but not all
            refused = refused or error
    for name in formats:
        for structure in _module(name).STRUCTURES:
            try:
                paired = renamed_by_structure(payload, structure, _module(name).NAMES)
                if paired is None or (model := _read(file, paired, name)) is None:
                    continue
                found = _load(file, name, model, overrides)
            except checkpoints.CheckpointError:  # another structure
                continue
            line = (
                "note: names of tensors are unknown, so they were matched by structure: order and "
                f"shapes are those of {name}"
            )
            return _with_rest(paired, name, found._replace(notes=[line, *found.notes]))
    if refused:
        raise refused
    return None


def _with_rest(payload: Payload, name: str, found: Imported) -> Imported:
    """Add a note about tensors that were not imported, such as those of an optimiser."""
    networks = torch_files.find_networks(payload, _module(name).NAMES)
    if not (rest := torch_files.tensors_left_out(payload, networks)):
        return found
    return found._replace(notes=[*found.notes, f"note: other tensors were left out: {_few(rest)}"])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + f", … ({len(names)})" * (len(names) > 5)


def _module(name: str) -> Any:
    """Return the module of a format, with NAMES and STRUCTURES."""
    return sys.modules[FORMATS[name].__module__]


def _read(file: Path, payload: Payload, name: str) -> ImportedModel | None:
    try:
        return FORMATS[name](payload)
    except checkpoints.CheckpointError as error:
        raise checkpoints.CheckpointError(f"{file}: {error}") from error
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise checkpoints.CheckpointError(
            f"{file} has the format {name}, but is damaged or modified: {reason}"
        ) from error


def _load(file: Path, name: str, model: ImportedModel, overrides: Mapping[str, Any]) -> Imported:
    """Return the model with its weights, after loading them into the network here."""
    spec = _build_spec(model.spec, overrides, source=f"imported: {name}")
    spec = spec.model_copy(update={"step": model.step})
    network = build_denoiser(spec).network
    files: dict[str, checkpoints.TensorFile] = {}
    dtypes: dict[str, None] = {}
    for weights, state in (("ema", model.ema), ("raw", model.raw)):
        if state is None:
            continue
        try:
            if model.arrange:
                state = model.arrange(spec.network.options, state)
            network.load_state_dict({key: tensor.float() for key, tensor in state.items()})
        except (RuntimeError, AttributeError) as error:  # other shapes, or not a tensor
            detail = " ".join(str(error).split())[:300]
            raise checkpoints.CheckpointError(
                f"{file} has the format {name}, but its {weights} weights do not fit: {detail}"
            ) from error
        if key := checkpoints.first_non_finite(network.state_dict()):
            raise checkpoints.CheckpointError(
                f"{file}: {key} of the {weights} weights is not finite. Import an earlier file."
            )
        described = spec.model_copy(update={"weights": weights})
        copies: dict[str, Tensor] = {k: t.clone() for k, t in network.state_dict().items()}
        files[FILE_OF[weights]] = checkpoints.TensorFile(copies, described.metadata())
        half = (t.dtype for t in state.values() if t.is_floating_point() and t.element_size() < 4)
        dtypes |= dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in half)
    notes = [f"note: {note}" for note in model.notes]
    if dtypes:
        notes.append(f"note: the file has weights in {' and '.join(dtypes)}, with few digits")
    return Imported(spec, files, [*_assumed(spec, model, overrides), *notes])


def _assumed(spec: ModelSpec, model: ImportedModel, overrides: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each assumed value, and for each override of a value in the file."""
    now = spec.model_dump(mode="json")
    for key, reason in model.assumed.items():
        if not any(_covers(given, key) for given in overrides):
            yield f"assumed: {key}={_shown(_at(now, key))} ({reason})"
    for key in overrides:
        before, after = _at(model.spec, key), _at(now, key)
        held = before is not None and not key.startswith("sampling.")
        assumed = any(_covers(each, key) or _covers(key, each) for each in model.assumed)
        old, new = _shown(before), _shown(after)
        if held and not assumed and old != new:
            yield f"note: {key} is {new}, as you set it, and not {old} as in the file"


def _covers(key: str, other: str) -> bool:
    """Return whether a key equals another, or is a section or component that contains it."""
    key = key.removesuffix(".name")
    return other == key or other.startswith(f"{key}.")


def _at(tree: Any, key: str) -> Any:
    """Return the value of a dotted key, None if there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):  # a component: its name; its options have lines of their own
        return str(value["name"])
    if isinstance(value, list) and len(value) > SHOWN_ITEMS:
        value = [*value[: SHOWN_ITEMS - 1], "…", value[-1]]
    if isinstance(value, list) and len(set(value)) == 1 and len(value) == 2:
        value = value[0]  # both sides of an image
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip().replace(", ", ",")


def _unknown(file: Path, payload: Payload, format: str | None) -> str:
    """Return the error for an unknown format: the keys of the file, and the expected ones."""
    problem = f"does not have the format {format}" if format else "has no known format"
    names = [format] if format else FORMATS
    expected = "; ".join(f"{name} has {min(_module(name).NAMES)}" for name in names)
    return (
        f"{file} {problem}. Its keys are: {torch_files.preview_keys(payload)}. Expected under any "
        f"prefix: {expected}. Known formats: {', '.join(FORMATS)}."
    )


def _build_spec(tree: dict[str, Any], overrides: Mapping[str, Any], *, source: str) -> ModelSpec:
    for key, value in overrides.items():
        if not key.startswith(OVERRIDABLE):
            raise ConfigError(
                f"unknown key {key}. Keys of an import are {', '.join(OVERRIDABLE)} (size=64, "
                "diffusion.T=400, diffusion.schedule.beta_T=0.028, …)."
            )
        tree = with_key(tree, key.split("."), value)
    if "diffusion.T" in overrides and "sampling.steps" not in overrides:
        tree = with_key(tree, ["sampling", "steps"], overrides["diffusion.T"])
    given = {key.removeprefix("sampling.") for key in overrides}
    tree = {**tree, "sampling": with_steps_of_list(tree["sampling"], given)}
    try:
        spec = ModelSpec.model_validate({**tree, "source": source})
    except ValidationError as error:
        raise ConfigError(f"the import: {explain(error, ModelSpec)}") from error
    low, high = spec.data_range
    if low >= high:
        raise ConfigError(f"data_range is {[low, high]}. The first number must be smaller.")
    checked = with_checked_components(spec)
    check_sampling(checked, labels=bool(spec.label_names))
    return checked
