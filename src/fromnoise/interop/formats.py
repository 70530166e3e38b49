"""Import a checkpoint of another program as a model folder: `fromnoise import`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from fromnoise import checkpoints
from fromnoise.config.checks import check_sampling
from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError, explain, unknown_name
from fromnoise.config.overrides import with_key
from fromnoise.interop.context_unet import context_unet
from fromnoise.interop.explainingai import explainingai
from fromnoise.interop.lucidrains import lucidrains
from fromnoise.interop.mnist_tutorial import mnist_tutorial
from fromnoise.interop.pytorch_ddpm import w86763777, zoubohao
from fromnoise.interop.torch_files import Format, ImportedModel, preview_keys, read_payload
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
OVERRIDABLE = ("network.", "diffusion.", "sampling.", "size", "label_names", "data_range")


def import_model(
    file: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[ModelSpec, Sequence[str]]:
    """Convert a checkpoint of another program to a model folder. Return the spec and the notes.

    out: a new folder for `ema.safetensors` and `model.safetensors`, or the one that the file has.
    format: a key of FORMATS, detected if None. overrides: dotted keys of settings that the file
    does not contain, as in {"diffusion.T": 500, "size": 64}. Each note is an assumption, one line.
    Raises CheckpointError, before anything is written, if the format is unknown, the file is
    damaged, or loading it would execute code.
    """
    file, out = Path(file), Path(out).absolute()
    checkpoints.require_empty_folder(out)
    name, model = detect_format(file, format)
    spec = _build_spec(model.spec, overrides or {}, source=f"imported: {name}")
    spec = spec.model_copy(update={"step": model.step})
    network = build_denoiser(spec).network
    files: dict[str, checkpoints.TensorFile] = {}
    for weights, state in (("ema", model.ema), ("raw", model.raw)):
        if state is None:
            continue
        try:
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
    with checkpoints.atomic_folder(out) as writing:
        for target, content in files.items():
            checkpoints.write_tensors(writing / target, content)
    return spec, model.notes


def detect_format(file: Path, format: str | None = None) -> tuple[str, ImportedModel]:
    """Return the format of a file and the model in it. Raises as `import_model`."""
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format {unknown_name(format, FORMATS)}")
    payload = read_payload(file)
    for name in [format] if format else FORMATS:
        try:
            model = FORMATS[name](payload)
        except checkpoints.CheckpointError as error:
            raise checkpoints.CheckpointError(f"{file}: {error}") from error
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise checkpoints.CheckpointError(
                f"{file} has the format {name}, but is damaged or modified: {reason}"
            ) from error
        if model is not None:
            return name, model
    problem = f"does not have the format {format}" if format else "has no known format"
    raise checkpoints.CheckpointError(
        f"{file} {problem}. Its keys are: {preview_keys(payload)}. Known formats: "
        f"{', '.join(FORMATS)}."
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
