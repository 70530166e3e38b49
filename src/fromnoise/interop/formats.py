"""The formats that can be imported, and the way from a file to a model folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from fromnoise.checkpoints import (
    CheckpointError,
    TensorFile,
    atomic_folder,
    first_non_finite,
    require_empty_folder,
    write_tensors,
)
from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError, explain, unknown_name
from fromnoise.config.overrides import with_key
from fromnoise.config.recipe import check_sampling
from fromnoise.interop.context_unet import context_unet
from fromnoise.interop.explainingai import explainingai
from fromnoise.interop.lucidrains import lucidrains
from fromnoise.interop.mnist_tutorial import mnist_tutorial
from fromnoise.interop.pytorch_ddpm import w86763777, zoubohao
from fromnoise.interop.torch_files import Foreign, Format, read_payload, seen
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import FILE_OF, ModelSpec

FORMATS: dict[str, Format] = {
    "explainingai": explainingai,
    "zoubohao": zoubohao,
    "w86763777": w86763777,
    "mnist-tutorial": mnist_tutorial,
    "lucidrains": lucidrains,
    "context-unet": context_unet,
}
CAN_CHANGE = ("network.", "diffusion.", "sampling.", "size", "label_names", "data_range")


def import_model(
    file: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[ModelSpec, Sequence[str]]:
    """Turn a checkpoint of another program into a folder that `load` and `sample` take.

    out: a new folder; `ema.safetensors` and `model.safetensors` are written there, as far as the
    file has both. format: a key of FORMATS; found out where None. overrides: dotted keys of what
    the file does not hold, as in {"diffusion.T": 500, "size": 64}. Returns what was written,
    and what was assumed, a line each.
    Raises CheckpointError for a file that is of no known format, does not hold what that format
    holds, or would execute code; nothing is written then.
    """
    file, out = Path(file), Path(out).absolute()
    require_empty_folder(out)
    name, foreign = recognise(file, format)
    spec = _specification(foreign.spec, overrides or {}, source=f"imported: {name}")
    spec = spec.model_copy(update={"step": foreign.step})
    network = build_denoiser(spec).network
    files: dict[str, TensorFile] = {}
    for weights, state in (("ema", foreign.ema), ("raw", foreign.raw)):
        if state is None:
            continue
        try:
            network.load_state_dict({key: tensor.float() for key, tensor in state.items()})
        except (RuntimeError, AttributeError) as error:  # other shapes; or a value, no tensor
            detail = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{file} looks like {name}, but its {weights} weights do not fit: {detail}"
            ) from error
        if broken := first_non_finite(network.state_dict()):
            raise CheckpointError(
                f"{file}: {broken} of the {weights} weights is not finite; take an earlier file"
            )
        described = spec.model_copy(update={"weights": weights})
        copies: dict[str, Tensor] = {k: t.clone() for k, t in network.state_dict().items()}
        files[FILE_OF[weights]] = TensorFile(copies, described.metadata())
    with atomic_folder(out) as writing:
        for target, content in files.items():
            write_tensors(writing / target, content)
    return spec, foreign.notes


def recognise(file: Path, format: str | None = None) -> tuple[str, Foreign]:
    """The format of a file, and what is in it."""
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format {unknown_name(format, FORMATS)}")
    payload = read_payload(file)
    for name in [format] if format else FORMATS:
        try:
            foreign = FORMATS[name](payload)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{file} begins like {name}, but is damaged or was changed: {reason}"
            ) from error
        if foreign is not None:
            return name, foreign
    wanted = f"not of the format {format}" if format else "of none of the known formats"
    raise CheckpointError(
        f"{file} is {wanted}; keys seen: {seen(payload)}; known formats: {', '.join(FORMATS)}"
    )


def _specification(tree: dict[str, Any], overrides: Mapping[str, Any], *, source: str) -> ModelSpec:
    for key, value in overrides.items():
        if not key.startswith(CAN_CHANGE):
            raise ConfigError(
                f"unknown key {key}; an import can be told {', '.join(CAN_CHANGE)} (size=64, "
                "diffusion.T=400, diffusion.schedule.beta_T=0.028, …)"
            )
        tree = with_key(tree, key.split("."), value)
    if "diffusion.T" in overrides and "sampling.steps" not in overrides:
        tree = with_key(tree, ["sampling", "steps"], overrides["diffusion.T"])
    size = tree["size"]
    try:
        spec = ModelSpec.model_validate(
            {**tree, "size": (size, size) if isinstance(size, int) else size, "source": source}
        )
    except ValidationError as error:
        raise ConfigError(f"the import: {explain(error, ModelSpec)}") from error
    low, high = spec.data_range
    if low >= high:
        raise ConfigError(f"data_range must rise from black to white, not {[low, high]}")
    checked = with_checked_components(spec)
    check_sampling(checked, labels=bool(spec.label_names))
    return checked
