"""A trained model: a denoiser and its settings. Load, sample, save."""

import inspect
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise import checkpoints, diffusion
from fromnoise.checkpoints import NotFinite
from fromnoise.config.schema import SamplingConfig
from fromnoise.diffusion.denoiser import Kind
from fromnoise.diffusion.schedule import on_device
from fromnoise.model.precision import Precision, default_precision, in_bf16, without_tf32
from fromnoise.model.sampling import resolve_sampling, visited_timesteps, with_guidance
from fromnoise.model.spec import ModelSpec, Weights, read_model_file
from fromnoise.networks import NETWORKS, check_size
from fromnoise.rng import Key, image_noise


def build_network(spec: ModelSpec) -> nn.Module:
    """Return the untrained network of a specification."""
    build = NETWORKS[spec.network.name]
    arguments = {"image_channels": spec.channels, "cond_dim": spec.cond_dim}
    more = {"T": spec.diffusion.T, "augment_dim": len(spec.augment_columns)}
    known = inspect.signature(build).parameters
    arguments |= {name: value for name, value in more.items() if name in known}
    return build(**arguments, **spec.network.options)


def build_denoiser(spec: ModelSpec) -> diffusion.Denoiser:
    """Return the untrained denoiser of a specification.

    Raises ValueError if the image size does not fit the network, or T its schedule.
    """
    network, process = build_network(spec), spec.diffusion
    largest = getattr(network, "largest_size", math.inf)
    check_size(*spec.size, getattr(network, "size_multiple", 1), largest)
    schedule, kind = process.noise_schedule(), cast(Kind, process.prediction.name)
    options = process.prediction.options
    return diffusion.Denoiser(network, schedule, kind, process.variance_reading, **options)


class Autoguidance(NamedTuple):
    """Guidance by a weaker model, such as an earlier one: ε = ε_weak + s·(ε − ε_weak)."""

    weak: "Model"
    scale: float  # s; 1 is off


class Model:
    """A denoiser in evaluation mode, on the device where it samples."""

    def __init__(
        self, denoiser: diffusion.Denoiser, spec: ModelSpec, *, precision: Precision = "fp32"
    ) -> None:
        """precision: what `auto` in the sampling settings means; `denoiser` stays in float32."""
        self.denoiser = denoiser
        self.spec = spec
        self.auto_precision: Precision = precision

    @cached_property
    def _in_bf16(self) -> diffusion.Denoiser:
        return in_bf16(self.denoiser)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.denoiser.parameters()).device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of the images."""
        return (self.spec.channels, *self.spec.size)

    def sampling_config(
        self, *, conditional: bool | None = None, **overrides: Any
    ) -> SamplingConfig:
        """Return the stored sampling settings with overrides, checked: see `resolve_sampling`."""
        own = self.spec, self.denoiser.schedule, self.auto_precision
        return resolve_sampling(*own, conditional, overrides)

    def sample(
        self,
        seeds: Sequence[int],
        config: SamplingConfig | None = None,
        *,
        batch_size: int = 64,
        cond: Tensor | None = None,
        compose: Mapping[str, float] | None = None,
        autoguidance: Autoguidance | None = None,
        **overrides: Any,
    ) -> Tensor:
        """Return one image per seed: (len(seeds), C, H, W), the same for any batch size.

        They are uint8, or for `data.depth` 16 and float uint16 and float32; see `spec.levels`.
        torch computes little in uint16: use `.numpy()`.

        Other batch sizes may sum in another order, which is at most one grey level in rare pixels,
        and two or three in bf16.

        Args:
            seeds: one per image. batch_size: images at a time.
            config: resolved settings; None resolves `overrides`, as in `steps=50, eta=0.5`.
            cond: labels in {−1, 0, +1}, (len(seeds), K) in the order of `spec.label_names`; None
                samples unconditionally.
            compose: labels and weights instead of cond: ε = ε_∅ + Σ_m w_m·(ε_m − ε_∅).
            autoguidance: a weaker model, which gets the same cond without guidance, and a scale.
            overrides: see `resolve_sampling`, for its errors too.

        Raises ValueError for labels that the model lacks; NotFinite for an image of NaN or ∞.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} is too small. Use at least 1.")
        if cond is not None and len(cond) != len(seeds):
            raise ValueError(
                f"cond has {len(cond)} rows for {len(seeds)} images. Give one row per image."
            )
        config = self._resolve(config, cond, overrides)
        batches = [self.pixels(torch.empty(0, *self.image_shape))]
        how: dict[str, Any] = {"compose": compose, "autoguidance": autoguidance}
        for i in range(0, len(seeds), batch_size):
            rows = slice(i, i + batch_size)
            labels = None if cond is None else cond[rows]
            steps = self.denoise(seeds[rows], config, cond=labels, **how)
            batches.append(self.pixels(last_x(steps)))
        return torch.cat(batches)

    def pixels(self, x: Tensor) -> Tensor:
        """Map x_0 to the stored values of the training images, clipped, on the CPU."""
        levels = self.spec.levels
        if levels.depth == 8:
            return to_uint8(x, self.spec.data_range)
        low, high = self.spec.data_range
        values = (x.clamp(low, high) - low) / (high - low) * (levels.high - levels.low)
        if levels.depth == 16:
            return values.round().cpu().to(torch.uint16)  # the CPU knows this type
        return (values + levels.low).clamp(levels.low, levels.high).to(torch.float32).cpu()

    def x0_of(self, images: Tensor) -> Tensor:
        """Map stored values to float32 x_0, the inverse of `pixels`."""
        levels, (low, high) = self.spec.levels, self.spec.data_range
        if levels.depth == 8:
            return from_uint8(images, self.spec.data_range)
        unit = (images.to(torch.float32) - levels.low) / (levels.high - levels.low)
        return unit * (high - low) + low

    def denoise(
        self,
        seeds: Sequence[int],
        config: SamplingConfig | None = None,
        *,
        origin: tuple[int, Tensor] | None = None,
        cond: Tensor | None = None,
        compose: Mapping[str, float] | None = None,
        autoguidance: Autoguidance | None = None,
        **overrides: Any,
    ) -> Iterator[diffusion.Step]:
        """Yield every step from x_T to x_0 of one batch.

        origin: (t, x_t) to start from instead of (T, noise); timesteps above t are left out. x and
        x0 of a step are float32 (B,C,H,W), within `spec.data_range` at the end. Other arguments
        and errors as in `sample`, such as NotFinite at the last step.
        """
        config = self._resolve(config, cond, overrides)
        times = visited_timesteps(config, self.denoiser.schedule)
        x = self.start(seeds)
        if origin is not None:
            first, x = origin
            times = [first, *(t for t in times if t < first)]
        steps = diffusion.SAMPLERS[config.sampler.name](
            self.guided_denoiser(config, len(seeds), cond, compose, autoguidance),
            self.denoiser.schedule,
            x.to(self.device),
            times,
            noise=lambda t: on_device(self.noise(seeds, t), self.device),
            **config.sampler.options,
        )
        return watched(steps, seeds)

    def _resolve(
        self, config: SamplingConfig | None, cond: Tensor | None, overrides: Mapping[str, Any]
    ) -> SamplingConfig:
        if config and overrides:
            raise ValueError(f"config and {next(iter(overrides))} exclude each other. Give one.")
        return config or self.sampling_config(conditional=cond is not None, **overrides)

    def guided_denoiser(
        self,
        config: SamplingConfig,
        count: int,
        cond: Tensor | None = None,
        compose: Mapping[str, float] | None = None,
        autoguidance: Autoguidance | None = None,
    ) -> diffusion.Denoise:
        """Return the denoiser for `count` images, guided and with x̂_0 kept in range.

        Use it for one trajectory only: a self-conditioned network remembers its last x̂_0.
        Arguments and errors as in `sample`.
        """
        denoise = self._conditioned(config, count, cond, compose)
        if autoguidance is not None:
            weak, scale = autoguidance
            self.check_compatible(weak)
            if compose is not None:
                raise ValueError(
                    "autoguidance and a composition exclude each other. Request labels by cond "
                    "(--labels, --class), or leave one of the two out."
                )
            beside = weak._conditioned(with_guidance(config, 1.0), count, cond, None)
            denoise = diffusion.autoguided(denoise, beside, scale)
        if not config.clamp:
            return denoise
        keep = diffusion.dynamic_threshold if config.clamp == "dynamic" else diffusion.clamp_x0
        return keep(denoise, *self.spec.data_range)

    def _conditioned(
        self,
        config: SamplingConfig,
        count: int,
        cond: Tensor | None,
        compose: Mapping[str, float] | None,
    ) -> diffusion.Denoise:
        names = self.spec.label_names
        computing = self._in_bf16 if config.precision == "bf16" else self.denoiser
        denoiser = diffusion.with_self_conditioning(computing)
        if cond is None and compose is None:
            return denoiser
        if not names:
            raise ValueError("this model is unconditional. Remove the labels.")
        if compose is not None:
            if cond is not None:
                raise ValueError("cond and compose exclude each other. Give one.")
            if unknown := [name for name in compose if name not in names]:
                raise ValueError(f"{unknown[0]!r} is not a label. Labels: {', '.join(names)}.")
            each = torch.eye(len(names))[[names.index(name) for name in compose]]
            each = self.condition(each)
            conds = [row.expand(count, -1) for row in each]  # each label alone, the others open
            return diffusion.composed(denoiser, conds, list(compose.values()))
        assert cond is not None
        if tuple(cond.shape) != (count, len(names)):
            raise ValueError(
                f"cond has shape {tuple(cond.shape)}. Give ({count}, {len(names)}): a row per "
                f"image, a column per label ({', '.join(names)})."
            )
        shape = {"interval": config.guidance_interval, "rescale": config.guidance_rescale}
        return diffusion.classifier_free(denoiser, self.condition(cond), config.guidance, **shape)

    def condition(self, labels: Tensor) -> Tensor:
        """Return the condition of the network: labels (B,K), then zeros for an augmentation.

        Zeros mean that the image is not transformed. In the type and on the device of the weights.
        """
        like = next(self.denoiser.parameters())
        return F.pad(labels.to(like), (0, len(self.spec.augment_columns)))

    def check_compatible(self, weak: "Model") -> None:
        """Raise ValueError unless a weaker model takes the same x_t and the same conditions."""
        different = [
            f"{what} = {theirs}, not {ours}"
            for what in ("channels", "size", "data_range", "label_names")
            if (theirs := getattr(weak.spec, what)) != (ours := getattr(self.spec, what))
        ]
        if not torch.equal(self.denoiser.schedule.alpha_bar, weak.denoiser.schedule.alpha_bar):
            different.append("another noise schedule")
        if different:
            raise ValueError(
                f"autoguidance: the weaker model has {different[0]}. Use an earlier checkpoint."
            )

    def same_weights(self, other: "Model") -> bool:
        """Return whether another model has the same weights."""
        ours, theirs = self.denoiser.network.state_dict(), other.denoiser.network.state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)

    def start(self, seeds: Sequence[int]) -> Tensor:
        """Return x_T, the noise of each seed: float32 (B,C,H,W), on the CPU."""
        return self.noise(seeds, 0)

    def noise(self, seeds: Sequence[int], t: int, *key: Key) -> Tensor:
        """Return the noise of each seed for the step from t: float32 (B,C,H,W), on the CPU.

        It is ε as in training, or with `diffusion.offset_noise` s it is ε + s·ξ, ξ one normal
        number per image and channel. key: see `rng.image_noise`.
        """
        eps = image_noise(seeds, t, self.image_shape, *key)
        strength = self.spec.diffusion.offset_noise
        if strength == 0:
            return eps
        return eps + strength * image_noise(seeds, t, (self.spec.channels, 1, 1), *key, "offset")

    def save(self, file: str | Path) -> Path:
        """Write one .safetensors file that `load` reads without any other information.

        Raises DiskFull and NotFinite; an existing file is then unchanged.
        """
        checkpoints.save_tensors_atomic(Path(file), self.content())
        return Path(file)

    def content(self) -> checkpoints.TensorFile:
        """Return the content of a file of this model."""
        return checkpoints.TensorFile(self.denoiser.network.state_dict(), self.spec.metadata())


def load(path: str | Path, *, weights: Weights | None = None, device: str = "auto") -> Model:
    """Load the model of a run folder (newest whole checkpoint), checkpoint or .safetensors file.

    weights: the moving average (`ema`, the default) or the `raw` ones; a file has only its own.
    Raises CheckpointError if `path` is none of the three, is damaged, or is too new.
    """
    file, spec, tensors = read_model_file(Path(path), weights)
    denoiser = build_denoiser(spec)
    checkpoints.load_weights(denoiser.network, tensors, file)
    target = select_device(device)
    denoiser.to(target).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Model(denoiser, spec, precision=default_precision(target))


def watched(walk: Iterator[diffusion.Step], seeds: Sequence[int] = ()) -> Iterator[diffusion.Step]:
    """Yield the steps, computed in inference mode and IEEE float32; what the caller does is not.

    Raises NotFinite, with the seeds, if an x_0 is NaN or infinite.
    """
    while True:
        with torch.inference_mode(), without_tf32():
            step = next(walk, None)
        if step is None:
            return
        if step.s == 0:
            finite = step.x.isfinite().flatten(1).all(dim=1).tolist()
            if broken := [str(seed) for seed, of in zip(seeds, finite, strict=True) if not of]:
                shown = ", ".join(broken[:8]) + (", …" if len(broken) > 8 else "")
                raise NotFinite(
                    f"{len(broken)} of {len(seeds)} images are NaN or infinite, of seeds {shown}. "
                    "Check the weights and the sampling settings, or use precision=fp32."
                )
        yield step


def last_x(steps: Iterator[diffusion.Step]) -> Tensor:
    """Return x of the last step, without keeping the others in memory."""
    return deque(steps, maxlen=1).pop().x


def select_device(name: str) -> torch.device:
    """Return the torch device; `auto` is the first available of cuda, mps, cpu.

    Raises ValueError for a device that torch lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        unknown = reason.startswith(("Expected one of", "Invalid device string"))
        problem = "is unknown" if unknown else f"is not available: {reason}"
        raise ValueError(f"device = {name!r} {problem}. Use cpu, cuda or mps.") from error
    return device


def to_uint8(x: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Map `data_range` (black, white) to 0..255, clipped and rounded: uint8 on the CPU."""
    low, high = data_range
    unit = (x.clamp(low, high) - low) / (high - low)
    return (unit * 255).round().to(torch.uint8).cpu()


def from_uint8(images: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Map 0..255 to float32 in `data_range` (black, white), the inverse of `to_uint8`."""
    low, high = data_range
    return images.to(torch.float32) / 255 * (high - low) + low
