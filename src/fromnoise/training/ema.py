"""Averages of the weights: the EMA, which a model samples from by default, and power-function ones.

`training.ema_lengths` has the lengths of the latter. Their snapshots are model files, out of which
`post_hoc_ema.py` makes averages of other lengths.
"""

import copy
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fromnoise.checkpoints import TensorFile, save_tensors_atomic
from fromnoise.config.schema import Training
from fromnoise.model.spec import ModelSpec, PowerAverage
from fromnoise.training.power_profiles import gamma_of

FOLDER = "ema"  # of the snapshots, in the run
SNAPSHOTS = 20  # of each length, unless training.ema_snapshot_every is set


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
        """Do update n with the weights of `module`, which has the structure of the initial one.

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
    γ follows from `length`, σ_rel. Karras et al. 2023 (arXiv:2312.02696), section 3.1.
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


def snapshot_every(settings: Training) -> int:
    """Return the steps between snapshots: by default a SNAPSHOTS-th of the training."""
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
        save_tensors_atomic(target, average.file(spec, step, updates))


def list_snapshots(run: Path) -> list[Path]:
    """Return the snapshots in a run folder, oldest first."""
    files = [p for p in (run / FOLDER).glob("*-*.safetensors") if p.name.split("-")[0].isdigit()]
    return sorted(files, key=lambda p: (int(p.name.split("-")[0]), p.name))


def delete_later_snapshots(run: Path, step: int) -> None:
    """Delete the snapshots of steps after `step`: a resumed run may have other settings."""
    for path in list_snapshots(run):
        if int(path.name.split("-")[0]) > step:
            path.unlink()
    for left_over in (run / FOLDER).glob(".writing-[0-9]*"):
        left_over.unlink()
