"""A trained model: a denoiser, and the ways of sampling from it."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError
from fromnoise.config.recipe import Sampling
from fromnoise.data.labels.names import label_index
from fromnoise.diffusion import (
    SAMPLERS,
    Denoise,
    Denoiser,
    Step,
    autoguided,
    classifier_free,
    composed,
    sampling_timesteps,
    with_self_conditioning,
)
from fromnoise.model.precision import Asked, Precision, default_precision, in_bf16
from fromnoise.model.sampling import clamped, sampling_plan
from fromnoise.model.spec import ModelSpec, Weights, find_model_file, read_spec
from fromnoise.networks import NETWORKS, check_size
from fromnoise.rng import Key, image_noise

SHAPING = ("guidance_interval", "guidance_rescale")  # which have no effect where s = 1
GUIDING = ("guidance", *SHAPING)


def build_denoiser(spec: ModelSpec) -> Denoiser:
    """The untrained denoiser that a specification describes.

    Raises ValueError when the image size does not fit the network, or T its schedule.
    """
    build = NETWORKS[spec.network.name]
    given = {"image_channels": spec.channels, "cond_dim": len(spec.label_names)}
    if "T" in inspect.signature(build).parameters:
        given["T"] = spec.diffusion.T
    network = build(**given, **spec.network.options)
    check_size(*spec.size, network.size_multiple, getattr(network, "largest_size", math.inf))
    return Denoiser(
        network,
        spec.diffusion.noise_schedule(),
        spec.diffusion.prediction,
        spec.diffusion.variance_reading,
    )


class Autoguidance(NamedTuple):
    """ε = ε_weak + s·(ε − ε_weak): away from what a weaker model, an earlier one say, would do."""

    weak: "Model"
    scale: float  # s; 1 is off


class Model:
    """A denoiser in evaluation mode, on the device where it samples."""

    def __init__(
        self, denoiser: Denoiser, spec: ModelSpec, *, precision: Precision = "fp32"
    ) -> None:
        """precision: in which sampling asks the network; `denoiser` itself stays in float32.

        Where that is bf16, the weights are copied when they are first asked for.
        """
        self.denoiser = denoiser
        self.spec = spec
        self._precision: Precision = precision

    @property
    def precision(self) -> Precision:
        """In which sampling asks the network."""
        return self._precision

    @cached_property
    def _asked(self) -> Denoiser:
        return in_bf16(self.denoiser) if self.precision == "bf16" else self.denoiser

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def sample(
        self,
        seeds: Sequence[int],
        *,
        batch_size: int = 64,
        cond: Tensor | None = None,
        compose: Mapping[str, float] | None = None,
        autoguidance: Autoguidance | None = None,
        **how: Any,
    ) -> Tensor:
        """One image per seed: uint8 (len(seeds), C, H, W), the same for any batch size.

        Equality over batch sizes is exact up to the rounding of the library's kernels, which may
        choose another order of summation: at most one grey level in rare pixels, and two or three
        in bf16.
        cond: labels in {−1, 0, +1}, (len(seeds), K) in the order of `spec.label_names`; None says
        nothing. compose: instead of it, labels and their weights: ε = ε_∅ + Σ_m w_m·(ε_m − ε_∅).
        autoguidance: a weaker model, which is asked for the same without guidance, and a scale.
        how: steps, sampler, timesteps, guidance, …, as in `plans.sampling_plan`.
        Raises ValueError for labels that the model does not have, and what `sampling_plan` raises.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if cond is not None and len(cond) != len(seeds):
            raise ValueError(
                f"cond must have one row for each of the {len(seeds)} images, not {len(cond)}"
            )
        batches = []
        for i in range(0, len(seeds), batch_size):
            x = None
            for step in self.denoise(
                seeds[i : i + batch_size],
                cond=None if cond is None else cond[i : i + batch_size],
                compose=compose,
                autoguidance=autoguidance,
                **how,
            ):
                x = step.x
            assert x is not None
            batches.append(to_uint8(x, self.spec.data_range))
        if not batches:
            return torch.empty(0, self.spec.channels, *self.spec.size, dtype=torch.uint8)
        return torch.cat(batches)

    def denoise(
        self,
        seeds: Sequence[int],
        *,
        origin: tuple[int, Tensor] | None = None,
        cond: Tensor | None = None,
        compose: Mapping[str, float] | None = None,
        autoguidance: Autoguidance | None = None,
        **how: Any,
    ) -> Iterator[Step]:
        """Walk from x_T to x_0 for these seeds in one batch: an iterator of every step.

        origin: (t, x_t) to set out from on the way instead of at (T, noise); the times of the plan
        above t are left out. x and x0 of a step are float32 (B,C,H,W), near `spec.data_range` at
        the end.
        Other arguments as in `sample`.
        """
        first, x = (None, self.start(seeds)) if origin is None else origin
        plan, times, denoise = self.way(
            len(seeds), first=first, cond=cond, compose=compose, autoguidance=autoguidance, **how
        )

        def noise(t: int) -> Tensor:
            return self.noise(seeds, t).to(self.device)

        walk = SAMPLERS[plan.sampler.name](
            denoise,
            self.denoiser.schedule,
            x.to(self.device),
            times,
            noise=noise,
            **plan.sampler.options,
        )
        return _in_inference_mode(walk)

    def way(
        self,
        count: int,
        *,
        first: int | None = None,
        cond: Tensor | None = None,
        compose: Mapping[str, float] | None = None,
        autoguidance: Autoguidance | None = None,
        **how: Any,
    ) -> tuple[Sampling, list[int], Denoise]:
        """The plan for `count` images, the falling times that it visits, and what it asks there.

        The denoiser is steered by cond or compose, and x̂_0 kept in range, as the plan says: with
        it, whatever walks over times (`fromnoise.diffusion`) does so as `sample` does. It is for
        one walk: where the network hears its last x̂_0, it remembers it. first: a time to set out
        from instead of the plan's own; those above it are left out.
        Arguments and errors as in `sample`.
        """
        plan = self.sampling_plan(**how)
        times = sampling_timesteps(self.denoiser.schedule, plan.steps, plan.timesteps)
        if first is not None:
            times = [first, *(t for t in times if t < first)]
        guiding = [key for key in GUIDING if how.get(key) is not None]
        if guiding and cond is None:
            raise ValueError(
                "there is nothing to guide towards: ε = ε_∅ + s·(ε_c − ε_∅), s = guidance, needs a "
                "condition; ask for labels"
                if compose is None
                else "a composition has a weight for each label in place of guidance: "
                f"ε = ε_∅ + Σ_m w_m·(ε_m − ε_∅); leave {guiding[0]} out"
            )
        idle = [key for key in SHAPING if how.get(key)]
        if idle and plan.guidance == 1:
            raise ValueError(
                f"{idle[0]} has no effect without guidance: s = 1 in ε = ε_∅ + s·(ε_c − ε_∅) is "
                "off; give guidance too"
            )
        span = how.get("guidance_interval")
        if span is not None and not any(span[0] <= t <= span[1] for t in times):
            raise ValueError(
                f"guidance_interval {span[0]}-{span[1]} has no effect: none of the {len(times)} "
                "times that are visited lies in it; widen it, or take more steps"
            )
        denoise = self._conditioned(cond, compose, count, plan)
        if autoguidance is not None:
            weak, scale = autoguidance
            self.check_compatible(weak)
            if compose is not None:
                raise ValueError(
                    "autoguidance and a composition exclude each other; ask for labels by cond "
                    "(--labels, --class), or leave one of the two out"
                )
            plain = plan.model_copy(update={"guidance": 1.0})
            beside = weak._conditioned(cond, None, count, plain)
            denoise = autoguided(denoise, beside, scale)
        return plan, times, clamped(denoise, plan, self.spec)

    def _conditioned(
        self,
        cond: Tensor | None,
        compose: Mapping[str, float] | None,
        count: int,
        plan: Sampling,
    ) -> Denoise:
        names = self.spec.label_names
        denoiser = with_self_conditioning(self._asked)  # one for each walk
        if cond is None and compose is None:
            return denoiser
        if not names:
            raise ValueError("this model was trained without labels, so it cannot be asked for any")
        if cond is not None and compose is not None:
            raise ValueError("cond and compose exclude each other; give one")
        like = next(self.denoiser.parameters())
        if compose is not None:
            each = torch.eye(len(names)).to(like)[[label_index(name, names) for name in compose]]
            conds = [row.expand(count, -1) for row in each]  # each label alone, the others open
            return composed(denoiser, conds, list(compose.values()))
        assert cond is not None
        if tuple(cond.shape) != (count, len(names)):
            raise ValueError(
                f"cond must be of shape ({count}, {len(names)}), one row for each image and one "
                f"column for each of the labels {', '.join(names)}, not {tuple(cond.shape)}"
            )
        return classifier_free(
            denoiser,
            cond.to(like),
            plan.guidance,
            interval=plan.guidance_interval,
            rescale=plan.guidance_rescale,
        )

    def check_compatible(self, weak: "Model") -> None:
        """Autoguidance needs two models that take the same x_t and the same conditions.

        Raises ValueError where this one does not.
        """
        for what in ("channels", "size", "data_range", "label_names"):
            ours, theirs = getattr(self.spec, what), getattr(weak.spec, what)
            if ours != theirs:
                raise ValueError(
                    f"autoguidance needs a weaker model of the same kind, but its {what} is "
                    f"{theirs}, and here it is {ours}; an earlier checkpoint of the run will do"
                )
        if not torch.equal(self.denoiser.schedule.alpha_bar, weak.denoiser.schedule.alpha_bar):
            raise ValueError(
                "autoguidance needs a weaker model with the same noise schedule and T; an earlier "
                "checkpoint of the run will do"
            )

    def same_weights(self, other: "Model") -> bool:
        """Whether the other is this model again."""
        ours, theirs = self.denoiser.network.state_dict(), other.denoiser.network.state_dict()
        return ours.keys() == theirs.keys() and all(
            torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
        )

    def start(self, seeds: Sequence[int]) -> Tensor:
        """x_T, the noise that each seed starts from: float32 (B,C,H,W), on the CPU."""
        return self.noise(seeds, 0)

    def noise(self, seeds: Sequence[int], t: int, *key: Key) -> Tensor:
        """The noise of each seed for the step that leaves t: float32 (B,C,H,W), on the CPU.

        It is of the kind that the model was trained with: ε, and with `diffusion.offset_noise` s
        ε + s·ξ, ξ one normal number for each image and channel. key: as of `rng.image_noise`.
        """
        channels, strength = self.spec.channels, self.spec.diffusion.offset_noise
        eps = image_noise(seeds, t, (channels, *self.spec.size), *key)
        if strength == 0:
            return eps
        return eps + strength * image_noise(seeds, t, (channels, 1, 1), *key, "offset")

    def sampling_plan(self, **how: Any) -> Sampling:
        """The stored way of sampling with these changes, checked: `plans.sampling_plan`."""
        return sampling_plan(self.spec, **how)

    def save(self, file: str | Path) -> Path:
        """Write one .safetensors file that `load` reads without any other information.

        Raises DiskFull and NotFinite; what was there stands.
        """
        file, weights = Path(file), self.denoiser.network.state_dict()
        checkpoints.save_tensors_atomic(file, checkpoints.TensorFile(weights, self.spec.metadata()))
        return file


def load(
    path: str | Path,
    *,
    weights: Weights | None = None,
    device: str = "auto",
    precision: Asked = "auto",
) -> Model:
    """The model in a run folder (its newest whole checkpoint), a checkpoint or a .safetensors file.

    weights: the moving average (`ema`, the default) or the `raw` ones; a file has only its own.
    precision: in which it samples; `auto` is bf16 where the device has instructions for it.
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
    if broken := checkpoints.first_non_finite(stored.tensors):
        raise CheckpointError(
            f"{file} is of no use: {broken} in it is not finite; take an earlier one"
        )
    picked = select_device(device)
    denoiser.to(picked).to(memory_format=torch.channels_last)
    if precision == "auto":
        precision = default_precision(picked)
    return Model(denoiser.eval().requires_grad_(False), spec, precision=precision)


def _in_inference_mode(walk: Iterator[Step]) -> Iterator[Step]:
    """The same steps; the caller's code, which runs between them, is not in inference mode."""
    while True:
        with torch.inference_mode():
            step = next(walk, None)
        if step is None:
            return
        yield step


def select_device(name: str) -> torch.device:
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


def to_uint8(x: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """From black and white as in `data_range` to 0..255, rounded; what is outside is cut off.

    On the CPU.
    """
    low, high = data_range
    unit = (x.clamp(low, high) - low) / (high - low)
    return (unit * 255).round().to(torch.uint8).cpu()


def from_uint8(images: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """From 0..255 to float32 with black and white as in `data_range`; `to_uint8` undoes it."""
    low, high = data_range
    return images.to(torch.float32) / 255 * (high - low) + low
