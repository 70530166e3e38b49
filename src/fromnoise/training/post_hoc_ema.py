"""`fromnoise ema`: make an average of any length out of the snapshots of a run (post-hoc EMA)."""

import logging
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fromnoise.checkpoints import (
    CheckpointError,
    TensorFile,
    load_weights,
    read_metadata,
    read_tensors,
    save_tensors_atomic,
)
from fromnoise.config.errors import ConfigError
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec, PowerAverage, read_spec
from fromnoise.training.ema import FOLDER, coefficients, gamma_of, list_snapshots
from fromnoise.training.run import require_run

WARN_ERROR, MAX_ERROR = 0.05, 0.5  # relative errors of a profile
logger = logging.getLogger("fromnoise")


class Snapshot(NamedTuple):
    """A snapshot file and its metadata."""

    file: Path
    spec: ModelSpec
    average: PowerAverage


class Reconstruction(NamedTuple):
    """An average that was made out of snapshots."""

    file: Path
    step: int
    snapshots: int  # the number of snapshots
    error: float  # the relative error of its profile


def reconstruct(
    run: str | Path, length: float, *, step: int | None = None, out: str | Path | None = None
) -> Reconstruction:
    """Write a model file with the average of a relative length, made out of a run's snapshots.

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
            f"{run} has one snapshot until step {step}, and two are needed. Give a later --step, "
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
    save_tensors_atomic(target, TensorFile(_weighted(used, x), spec.metadata()))
    return Reconstruction(target, step, len(used), error)


def read_snapshots(run: Path) -> list[Snapshot]:
    """Return all snapshots of a run, by step.

    Raises ConfigError if there are none, and CheckpointError for a file that is not a snapshot, or
    is that of another network.
    """
    require_run(run)
    snapshots = []
    for file in list_snapshots(run):
        spec = read_spec(read_metadata(file), file)
        if spec.power_average is None:
            raise CheckpointError(f"{file} is not a snapshot of a power-function average. Move it.")
        snapshots.append(Snapshot(file, spec, spec.power_average))
    if not snapshots:
        raise ConfigError(
            f"{run.absolute()} has no snapshots in {FOLDER}/. A training writes them with a "
            "setting such as training.ema_lengths=[0.05,0.1]."
        )
    same = attrgetter("network", "diffusion", "channels", "label_names")
    for snapshot in snapshots:
        if same(snapshot.spec) != same(snapshots[-1].spec):
            raise CheckpointError(
                f"{snapshot.file} is of another network than {snapshots[-1].file.name}. Move the "
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
