"""`fromnoise ema`: the average of any length, after the training, out of its snapshots."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from fromnoise.checkpoints import (
    CheckpointError,
    TensorFile,
    read_metadata,
    read_tensors,
    save_tensors_atomic,
)
from fromnoise.config.errors import ConfigError
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec, PowerAverage, read_spec
from fromnoise.training.power_ema import FOLDER, list_snapshots
from fromnoise.training.power_profiles import coefficients, gamma_of
from fromnoise.training.run import RECIPE_FILE

POOR, USELESS = 0.05, 0.5  # relative error of a profile
logger = logging.getLogger("fromnoise")


class Snapshot(NamedTuple):
    """A file, and what it says of itself."""

    file: Path
    spec: ModelSpec
    average: PowerAverage


class Reconstruction(NamedTuple):
    """An average that was made of others."""

    file: Path
    step: int
    snapshots: int  # that it was made of
    error: float  # relative, of its profile


def reconstruct(
    run: str | Path, length: float, *, step: int | None = None, out: str | Path | None = None
) -> Reconstruction:
    """Write a model file with the average of a relative length, made of a run's snapshots.

    θ̂_γ(t) ≈ Σ_i x_i θ̂_{γ_i}(t_i), by the `coefficients` of their profiles (arXiv:2312.02696,
    section 3.2). length: σ_rel in (0, 1/√12). step: where the average ends, the last snapshot by
    default. out: a new .safetensors file; RUN/ema/length-0.1.safetensors by default, which is
    written anew. One snapshot at a time is in memory.
    Raises ConfigError or CheckpointError where it cannot be made, or only with a relative error of
    its profile above 50 %.
    """
    run, gamma = Path(run), gamma_of(length)
    target = _target(run, length, step, out)
    snapshots = read_snapshots(run)
    last = snapshots[-1].spec.step
    step = last if step is None else step
    if not 1 <= step <= last:
        raise ConfigError(f"step {step} is none of 1–{last}, which the snapshots of {run} cover")
    # what the average is at `step` cannot depend on a later time than that of the next snapshot
    until = min(s.spec.step for s in snapshots if s.spec.step >= step)
    used = [s for s in snapshots if s.spec.step <= until]
    if len(used) < 2:
        raise ConfigError(
            f"{run} has one snapshot until step {step}, and two are needed; give a later --step or "
            "let it train on"
        )
    gammas = np.array([gamma_of(s.average.length) for s in used])
    times = np.array([s.average.updates for s in used], dtype=np.float64)
    updates = {0: 0, **{s.spec.step: s.average.updates for s in used}}
    # between two snapshots, too, an update is a step, unless some were skipped
    t = max(1, round(float(np.interp(step, list(updates), list(updates.values())))))
    x, error = coefficients(gammas, times, gamma, t)
    mends = "nearer training.ema_lengths or a smaller training.ema_snapshot_every come closer"
    if error > USELESS:
        at = f"a --step that has a snapshot, as {until}, or " if step != until else ""
        raise ConfigError(
            f"the snapshots make no average of length {length:g} at step {step}: the relative "
            f"error of its profile is {100 * error:.0f} %, and at most {100 * USELESS:.0f} % is "
            f"written; {at}a --length nearer those of the snapshots, or in another training "
            f"{mends}"
        )
    if error > POOR:
        logger.warning(
            "the snapshots make the average of length %g with a relative error of %.0f %%; %s",
            *(length, 100 * error),
            f"step {step} has none, step {until} has" if step != until else mends,
        )
    average = PowerAverage(length=length, updates=t, error=error)
    spec = used[-1].spec.model_copy(update={"step": step, "power_average": average})
    save_tensors_atomic(target, TensorFile(_weighted(used, x), spec.metadata()))
    return Reconstruction(target, step, len(used), error)


def read_snapshots(run: Path) -> list[Snapshot]:
    """All snapshots of a run, by step; of one network.

    Raises ConfigError where there are none, and CheckpointError for what is none.
    """
    if not (run / RECIPE_FILE).is_file():
        raise ConfigError(f"{run.absolute()} is no run: it has no {RECIPE_FILE}")
    snapshots = []
    for file in list_snapshots(run):
        spec = read_spec(read_metadata(file), file)
        if spec.power_average is None:
            raise CheckpointError(f"{file} is no snapshot of a power-function average; move it")
        snapshots.append(Snapshot(file, spec, spec.power_average))
    if not snapshots:
        raise ConfigError(
            f"{run.absolute()} has no snapshots in {FOLDER}/: they are stored while it trains, if "
            "its recipe says so, as in training.ema_lengths=[0.05,0.1]"
        )
    for snapshot in snapshots:
        if _network_of(snapshot.spec) != _network_of(snapshots[-1].spec):
            raise CheckpointError(
                f"{snapshot.file} is of another network than {snapshots[-1].file.name}; move what "
                "does not belong to this run"
            )
    return snapshots


def _network_of(spec: ModelSpec) -> tuple[object, ...]:
    return spec.network, spec.diffusion, spec.channels, spec.label_names


def _target(run: Path, length: float, step: int | None, out: str | Path | None) -> Path:
    if out is None:
        at = "" if step is None else f"-step-{step:06d}"
        return run / FOLDER / f"length-{length:g}{at}.safetensors"
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out} must end with .safetensors")
    if out.exists():
        raise ConfigError(f"{out.absolute()} is there already; give --out a new name")
    return out


def _weighted(snapshots: list[Snapshot], x: np.ndarray) -> dict[str, Tensor]:
    """Σ_i x_i θ_i, summed in float64; buffers are those of the last snapshot."""
    network = build_denoiser(snapshots[-1].spec).network.requires_grad_(False)
    total = {name: p.double().zero_() for name, p in network.named_parameters()}
    for snapshot, coefficient in zip(snapshots, x.tolist(), strict=True):
        _load(network, snapshot.file)
        for name, parameter in network.named_parameters():
            total[name].add_(parameter, alpha=coefficient)
    for name, parameter in network.named_parameters():
        parameter.copy_(total[name])
    return network.state_dict()


def _load(network: nn.Module, file: Path) -> None:
    try:
        network.load_state_dict(dict(read_tensors(file).tensors))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} does not hold what it says it holds: {detail}") from error
