"""A trained model: a denoiser, and all that is needed to know what it makes.

A model file is a .safetensors file of the network's weights whose metadata holds the whole
`ModelSpec`, so that no flag has to be retyped to sample from it.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError
from fromnoise.config import Component, Diffusion, Sampling, Section, checked, unknown
from fromnoise.diffusion import SAMPLERS, SPACINGS, Denoiser, NoiseSchedule, Step, clamp_x0
from fromnoise.diffusion.samplers import sampling_times
from fromnoise.networks import NETWORKS, check_size
from fromnoise.rng import image_noise

METADATA_KEY = "fromnoise"
Weights = Literal["ema", "raw"]
FILE_OF: dict[str, str] = {"ema": "ema.safetensors", "raw": "model.safetensors"}
logger = logging.getLogger("fromnoise")


class ModelSpec(Section):
    """What a model file says of itself."""

    format_version: int = checkpoints.FORMAT_VERSION
    network: Component
    diffusion: Diffusion
    sampling: Sampling
    channels: int
    size: tuple[int, int]  # (H, W)
    weights: Weights = "raw"
    step: int = 0
    source: str = ""  # the data it was trained on

    def metadata(self) -> dict[str, str]:
        """The specification as .safetensors metadata."""
        return {METADATA_KEY: self.model_dump_json()}


def build_denoiser(spec: ModelSpec) -> Denoiser:
    """The untrained denoiser that a specification describes.

    Raises ValueError when the image size does not fit the network, or T its schedule.
    """
    schedule = spec.diffusion.schedule
    network = NETWORKS[spec.network.name](image_channels=spec.channels, **spec.network.options)
    check_size(*spec.size, multiple=network.size_multiple)
    return Denoiser(
        network,
        NoiseSchedule.named(schedule.name, spec.diffusion.T, **schedule.options),
        spec.diffusion.prediction,
    )


class Model:
    """A denoiser in evaluation mode, on the device where it samples."""

    def __init__(self, denoiser: Denoiser, spec: ModelSpec) -> None:
        self.denoiser = denoiser
        self.spec = spec

    def sample(
        self,
        seeds: Sequence[int],
        *,
        batch_size: int = 64,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        **options: Any,
    ) -> Tensor:
        """One image per seed: uint8 (len(seeds), C, H, W), the same for any batch size.

        Equality over batch sizes is exact up to the rounding of the library's kernels, which may
        choose another order of summation: at most one grey level in rare pixels.
        steps, sampler, spacing: those stored with the model where None.
        options: the sampler's own (`eta` for ddim, `variance` for ddpm).
        Raises ValueError for an unknown sampler, spacing or option, or steps outside 1..T.
        """
        batches = []
        for i in range(0, len(seeds), batch_size):
            x = None
            for step in self.denoise(
                seeds[i : i + batch_size], steps=steps, sampler=sampler, spacing=spacing, **options
            ):
                x = step.x
            assert x is not None
            batches.append(to_uint8(x))
        if not batches:
            return torch.empty(0, self.spec.channels, *self.spec.size, dtype=torch.uint8)
        return torch.cat(batches)

    def denoise(
        self,
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """Walk from x_T to x_0 for these seeds in one batch, yielding every step.

        x and x0 of a step are float32 (B,C,H,W), near [−1, 1] at the end. Arguments as in `sample`.
        """
        plan = self.sampling_plan(steps=steps, sampler=sampler, spacing=spacing, **options)
        shape = (self.spec.channels, *self.spec.size)
        device = next(self.denoiser.parameters()).device
        schedule = self.denoiser.schedule
        times = sampling_times(schedule.T, plan.steps, plan.spacing)

        def noise(t: int) -> Tensor:
            return image_noise(seeds, t, shape).to(device)

        walk = SAMPLERS[plan.sampler.name](
            clamp_x0(self.denoiser) if plan.clamp else self.denoiser,
            schedule,
            self.start(seeds).to(device),
            times,
            noise=noise,
            **plan.sampler.options,
        )
        while True:  # no inference mode outside: the caller's code runs between the steps
            with torch.inference_mode():
                step = next(walk, None)
            if step is None:
                return
            yield step

    def start(self, seeds: Sequence[int]) -> Tensor:
        """x_T, the noise that each seed starts from: float32 (B,C,H,W), on the CPU."""
        return image_noise(seeds, 0, (self.spec.channels, *self.spec.size))

    def sampling_plan(
        self,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        **options: Any,
    ) -> Sampling:
        """The stored way of sampling with these changes, checked."""
        stored = self.spec.sampling
        if spacing is not None and spacing not in SPACINGS:
            raise ValueError(f"spacing {unknown(spacing, SPACINGS)}")
        if steps is not None and not 1 <= steps <= self.denoiser.schedule.T:
            raise ValueError(f"steps must be 1..{self.denoiser.schedule.T}, not {steps}")
        same = sampler is None or sampler == stored.sampler.name
        inherited = stored.sampler.options if same else {}
        chosen = Component(name=sampler or stored.sampler.name, **{**inherited, **options})
        return stored.model_copy(
            update={
                "sampler": checked(chosen, "sampling.sampler"),
                "steps": min(steps or stored.steps, self.denoiser.schedule.T),
                "spacing": spacing or stored.spacing,
            }
        )

    def save(self, file: str | Path) -> Path:
        """Write one .safetensors file that `load` reads without any other information."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        weights = self.denoiser.network.state_dict()
        checkpoints.write_tensors(file, checkpoints.TensorFile(weights, self.spec.metadata()))
        return file


def load(path: str | Path, *, weights: Weights | None = None, device: str = "auto") -> Model:
    """The model in a run folder (its newest whole checkpoint), a checkpoint or a .safetensors file.

    weights: the moving average (`ema`, the default) or the `raw` ones; a file has only its own.
    Raises CheckpointError when `path` is none of the three, is damaged, or is too new.
    """
    file = find_model_file(Path(path), weights)
    stored = checkpoints.read_tensors(file)
    spec = read_spec(stored.metadata, file)
    if weights is not None and weights != spec.weights:
        raise CheckpointError(f"{file} holds the {spec.weights} weights, not the {weights} ones")
    denoiser = build_denoiser(spec)
    try:
        denoiser.network.load_state_dict(dict(stored.tensors))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} does not hold what it says it holds: {detail}") from error
    denoiser.to(pick_device(device)).to(memory_format=torch.channels_last)
    return Model(denoiser.eval().requires_grad_(False), spec)


def find_model_file(path: Path, weights: Weights | None) -> Path:
    """The .safetensors file that a run folder, a checkpoint folder or a file stands for."""
    if weights is not None and weights not in FILE_OF:
        raise ValueError(f"weights {unknown(weights, FILE_OF)}")
    expected = "expected a run folder, a checkpoint folder or a .safetensors file"
    if not path.exists():
        raise CheckpointError(f"there is nothing at {path.absolute()}; {expected}")
    if path.is_file():
        return path
    if (path / checkpoints.STATE).is_file():
        why = checkpoints.problem(path)
        if why is not None:
            raise CheckpointError(why)
        return path / FILE_OF[weights or "ema"]
    newest, damaged = checkpoints.newest_checkpoint(path / "checkpoints")
    if newest is None:
        why = "; ".join(damaged) or f"{path.absolute()} has no checkpoint"
        raise CheckpointError(f"{why}; {expected}")
    for line in damaged:
        logger.warning("%s; using the earlier %s", line, newest.name)
    return newest / FILE_OF[weights or "ema"]


def read_spec(metadata: Mapping[str, str], file: Path) -> ModelSpec:
    """The specification in the metadata of a model file."""
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{file} was not written by fromnoise: its metadata name no model")
    try:
        tree = json.loads(metadata[METADATA_KEY])
        checkpoints.check_version(tree["format_version"], file)
        return ModelSpec.model_validate(tree)
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: its metadata cannot be read: {detail}") from error


def pick_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps, cpu that is there. ValueError for what torch lacks."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def to_uint8(x: Tensor) -> Tensor:
    """[−1, 1] → 0..255, rounded; values outside are cut off. On the CPU."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
