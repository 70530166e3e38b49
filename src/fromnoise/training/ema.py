"""Average the weights: by an EMA, the default for sampling, and by power functions.

`training.ema_lengths` sets the lengths of the power-function averages. Their snapshots are model
files, which `reconstruct` combines to averages of other lengths (post-hoc EMA). Karras et al. 2023
(arXiv:2312.02696), section 3.1 and appendix C. Time t counts updates of the weights. In the average
of exponent γ at t, the weights of time τ have the coefficient

    p_{γ,t}(τ) = (γ+1) τ^γ / t^{γ+1}  for 0 ≤ τ ≤ t, and 0 elsewhere,

which is called its profile. The profile of an EMA with a constant decay has a constant width; this
profile has a constant shape, and its width grows with t. Profiles are in float64.
"""

import copy
import logging
import math
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError, TensorFile, load_weights, read_tensors
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import LONGEST, Training
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec, PowerAverage, read_spec, require_run

FOLDER = "ema"  # of the snapshots, in the run
SNAPSHOTS = 20  # of each length, unless training.ema_snapshot_every is set
WARN_ERROR, MAX_ERROR = 0.05, 0.5  # relative errors of a profile
logger = logging.getLogger("fromnoise")


class EMA:
    """The exponential moving average: θ̄ ← d θ̄ + (1−d) θ, with d = min(decay, (1+n)/(10+n)).

    n = 0, 1, … counts the updates, so d starts at 0.1: the average soon forgets the random initial
    weights, and later has the full decay. `module` is the average, a float32 copy in eval mode.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def decay_of(self, n: int) -> float:
        """Return d of update n."""
        return min(self.decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def update(self, module: nn.Module, n: int) -> None:
        """Apply update n with the weights of `module`, which has the initial structure.

        Buffers are copied.
        """
        average_all = get_ema_multi_avg_fn(self.decay_of(n))  # one kernel for all parameters
        average_all(list(self.module.parameters()), list(module.parameters()), 0)
        for averaged, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            averaged.copy_(buffer)


class PowerEMA(EMA):
    """A power-function average: θ̂ ← β_γ(t) θ̂ + (1 − β_γ(t)) θ, with β_γ(t) = (1 − 1/t)^{γ+1}.

    t = n + 1 in update n = 0, 1, …, so the first update forgets the initial weights. The
    coefficient of θ(i) is (i/t)^{γ+1} − ((i−1)/t)^{γ+1}, the integral of the profile over its step.
    γ follows from `length`, σ_rel.
    """

    def __init__(self, module: nn.Module, length: float) -> None:
        super().__init__(module, decay=1.0)
        self.length = length
        self.gamma = gamma_of(length)

    def decay_of(self, n: int) -> float:
        """Return β_γ of update n."""
        return (1 - 1 / (n + 1)) ** (self.gamma + 1)

    def file(self, spec: ModelSpec, step: int, updates: int) -> TensorFile:
        """Return the average after `updates` updates as a model file. spec: of the network."""
        average = PowerAverage(length=self.length, updates=updates)
        changes = {"weights": "ema", "step": step, "power_average": average}
        metadata = spec.model_copy(update=changes).metadata()
        return TensorFile(self.module.state_dict(), metadata)


def snapshot_every(settings: Training) -> float:
    """Return the steps between snapshots, by default the training's steps over SNAPSHOTS."""
    return settings.ema_snapshot_every or max(1, -(-settings.steps // SNAPSHOTS))


def save_snapshots(
    averages: list[PowerEMA], spec: ModelSpec, run: Path, *, step: int, updates: int
) -> None:
    """Write RUN/ema/000500-0.05.safetensors, …, each complete or not at all.

    They are float32, because averages differ little: in 200 steps of `digits`, those of 0.02 and
    0.1 differed by 0.35 %. Snapshots in float16 would have changed the former by 0.21 %, since it
    is a sum whose coefficients have both signs and absolute values that add up to 20.
    Raises DiskFull and NotFinite.
    """
    for average in averages:
        target = run / FOLDER / f"{step:06d}-{average.length:g}.safetensors"
        checkpoints.save_tensors_atomic(target, average.file(spec, step, updates))


def list_snapshots(run: Path) -> list[Path]:
    """Return the snapshots in a run folder, oldest first."""
    files = [p for p in (run / FOLDER).glob("*-*.safetensors") if p.name.split("-")[0].isdigit()]
    return sorted(files, key=lambda p: (int(p.name.split("-")[0]), p.name))


def delete_later_snapshots(run: Path, step: int) -> None:
    """Delete the snapshots of steps after `step`: a resumed run may have other settings."""
    later = [path for path in list_snapshots(run) if int(path.name.split("-")[0]) > step]
    for path in (*later, *(run / FOLDER).glob(".writing-[0-9]*")):  # and files of a killed process
        path.unlink()


# ---- profiles of power-function averages --------------------------------------------------------


def gamma_of(length: float) -> float:
    """Return the exponent γ > 0 of the profile of a relative length.

    The length is the standard deviation of the profile over t, σ_rel = √(γ+1) / ((γ+2) √(γ+3)).
    With u = γ + 2 and s = σ_rel⁻², u is the largest root of u³ + u² − s u + s = 0, in the
    trigonometric form for a cubic with three real roots.
    length: σ_rel in (0, 1/√12). Raises ValueError outside.
    """
    if not 0 < length < LONGEST:
        raise ValueError(f"length = {length:g}. Give more than 0 and less than {LONGEST:.4f}.")
    s = length**-2
    p, q = -s - 1 / 3, 2 / 27 + 4 * s / 3  # w³ + p w + q = 0, w = u + 1/3
    angle = math.acos(1.5 * q / p * math.sqrt(-3 / p)) / 3
    return 2 * math.sqrt(-p / 3) * math.cos(angle) - 1 / 3 - 2


def inner_product(
    gamma: np.ndarray | float,
    t: np.ndarray | float,
    other_gamma: np.ndarray | float,
    other_t: np.ndarray | float,
) -> np.ndarray:
    """Return ∫ p_{γ_a,t_a}(τ) p_{γ_b,t_b}(τ) dτ.

    It is (γ_a+1)(γ_b+1) / (γ_a+γ_b+1) · (t_min/t_max)^{γ of t_max} / t_max: with the ratio of
    times, no power overflows. γ > −1/2, t > 0; float64 arrays that broadcast.
    """
    first, last = np.minimum(t, other_t), np.maximum(t, other_t)
    later_gamma = np.where(np.greater(t, other_t), gamma, other_gamma)
    scale = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1)
    return scale * (first / last) ** later_gamma / last


def coefficients(
    gammas: np.ndarray, times: np.ndarray, gamma: float, t: float
) -> tuple[np.ndarray, float]:
    """Approximate the profile of γ at t by Σ_i x_i p_i of other profiles, in least squares.

    Solves the normal equations A x = b of inner products (appendix C), with the constraint
    Σ_i x_i = 1, so that the average of constant weights is these weights.
    gammas and times: (N,), N ≥ 1. Returns x (N,) and the relative error of the profile,
    ‖Σ_i x_i p_i − p_{γ,t}‖ / ‖p_{γ,t}‖, 0 if it is one of the N.
    """
    A = inner_product(gammas[:, None], times[:, None], gammas, times)
    b = inner_product(gammas, times, gamma, t)
    unit = 1 / np.sqrt(np.diagonal(A))  # scales the profiles to norm 1
    A, b = unit[:, None] * A * unit, unit * b
    # two profiles are equal if all steps between them were skipped; lstsq then splits a coefficient
    solutions, *_ = np.linalg.lstsq(A, np.stack([b, unit], axis=1), rcond=None)
    x, direction = solutions.T  # direction: changes Σ_i x_i at the least cost
    x = x + direction * (1 - unit @ x) / (unit @ direction)
    target = float(inner_product(gamma, t, gamma, t))
    squared = (target - 2 * x @ b + x @ A @ x) / target
    return unit * x, math.sqrt(max(squared, 0.0))  # rounding may make it negative


# ---- averages of other lengths (post-hoc EMA) ----------------------------------------------------


class Snapshot(NamedTuple):
    """A snapshot file and its metadata."""

    file: Path
    spec: ModelSpec
    average: PowerAverage


class Reconstruction(NamedTuple):
    """An average made from snapshots."""

    file: Path
    step: int
    snapshots: int  # the number of snapshots
    error: float  # the relative error of its profile


def reconstruct(
    run: str | Path, length: float, *, step: int | None = None, out: str | Path | None = None
) -> Reconstruction:
    """Write a model file with the average of a relative length, made from a run's snapshots.

    θ̂_γ(t) ≈ Σ_i x_i θ̂_{γ_i}(t_i), by the `coefficients` of their profiles (arXiv:2312.02696,
    section 3.2). length: σ_rel in (0, 1/√12). step: the last step of the average, by default that
    of the last snapshot. out: a new .safetensors file, by default RUN/ema/length-0.1.safetensors,
    which may exist. One snapshot at a time is in memory.
    Raises ConfigError or CheckpointError if this is impossible, or if the relative error of the
    profile is above 50 %.
    """
    run, gamma = Path(run), gamma_of(length)
    target = _target(run, length, step, out)
    snapshots = read_snapshots(run)
    last = snapshots[-1].spec.step
    step = last if step is None else step
    if not 1 <= step <= last:
        raise ConfigError(
            f"step {step} is not within 1–{last}, the steps of the snapshots of {run}. Give "
            "another --step."
        )
    # the average at `step` does not depend on snapshots after the next one
    until = min(s.spec.step for s in snapshots if s.spec.step >= step)
    used = [s for s in snapshots if s.spec.step <= until]
    if len(used) < 2:
        raise ConfigError(
            f"{run} has one snapshot up to step {step}, but two are needed. Give a later --step, "
            "or train longer."
        )
    gammas = np.array([gamma_of(s.average.length) for s in used])
    times = np.array([s.average.updates for s in used], dtype=np.float64)
    updates = {0: 0, **{s.spec.step: s.average.updates for s in used}}
    # between two snapshots each step is an update, except for skipped steps
    t = max(1, round(float(np.interp(step, list(updates), list(updates.values())))))
    x, error = coefficients(gammas, times, gamma, t)
    advice = "training.ema_lengths nearer to it, or a smaller training.ema_snapshot_every"
    if error > MAX_ERROR:
        at = f"a --step with a snapshot, such as {until}, " if step != until else ""
        raise ConfigError(
            f"the average of length {length:g} at step {step} would have a relative error of "
            f"{100 * error:.0f} % in its profile, and the limit is {100 * MAX_ERROR:.0f} %. Give "
            f"{at}a --length nearer to those of the snapshots, or train another run with {advice}."
        )
    if error > WARN_ERROR:
        logger.warning(
            "the average of length %g has a relative error of %.0f %% in its profile. %s",
            *(length, 100 * error),
            f"Step {step} has no snapshot, step {until} has one"
            if step != until
            else f"To reduce it, train with {advice}",
        )
    average = PowerAverage(length=length, updates=t, error=error)
    spec = used[-1].spec.model_copy(update={"step": step, "power_average": average})
    checkpoints.save_tensors_atomic(target, TensorFile(_weighted(used, x), spec.metadata()))
    return Reconstruction(target, step, len(used), error)


def read_snapshots(run: Path) -> list[Snapshot]:
    """Return all snapshots of a run, by step.

    Raises ConfigError if there are none, and CheckpointError for a file that is not a snapshot, or
    has another network.
    """
    require_run(run)
    snapshots = []
    for file in list_snapshots(run):
        spec = read_spec(read_tensors(file, metadata_only=True).metadata, file)
        if spec.power_average is None:
            raise CheckpointError(f"{file} is not a snapshot of a power-function average. Move it.")
        snapshots.append(Snapshot(file, spec, spec.power_average))
    if not snapshots:
        raise ConfigError(
            f"{run.absolute()} has no snapshots in {FOLDER}/. To write them, train with a setting "
            "such as training.ema_lengths=[0.05,0.1]."
        )
    same = attrgetter("network", "diffusion", "channels", "label_names", "augment_columns")
    for snapshot in snapshots:
        if same(snapshot.spec) != same(snapshots[-1].spec):
            raise CheckpointError(
                f"{snapshot.file} has another network than {snapshots[-1].file.name}. Move the "
                "files that do not belong to this run."
            )
    return snapshots


def _target(run: Path, length: float, step: int | None, out: str | Path | None) -> Path:
    if out is None:
        at = "" if step is None else f"-step-{step:06d}"
        return run / FOLDER / f"length-{length:g}{at}.safetensors"
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out is {out}. Give a name that ends with .safetensors.")
    if out.exists():
        raise ConfigError(f"{out.absolute()} exists already. Give --out a new name.")
    return out


def _weighted(snapshots: list[Snapshot], x: np.ndarray) -> dict[str, Tensor]:
    """Return Σ_i x_i θ_i, summed in float64, with the buffers of the last snapshot."""
    network = build_denoiser(snapshots[-1].spec).network.requires_grad_(False)
    total = {name: p.double().zero_() for name, p in network.named_parameters()}
    for snapshot, coefficient in zip(snapshots, x.tolist(), strict=True):
        load_weights(network, read_tensors(snapshot.file).tensors, snapshot.file)
        for name, parameter in network.named_parameters():
            total[name].add_(parameter, alpha=coefficient)
    for name, parameter in network.named_parameters():
        parameter.copy_(total[name])
    return network.state_dict()
