"""`training.ema_lengths`: averages beside the usual one, and snapshots of them as model files.

Any other length is made of the snapshots afterwards, by `post_hoc.py`.
"""

import copy
from pathlib import Path

from torch import nn

from fromnoise.checkpoints import TensorFile, save_tensors_atomic
from fromnoise.config.schema import Training
from fromnoise.model.spec import ModelSpec, PowerAverage
from fromnoise.training.ema import take_in
from fromnoise.training.power_profiles import beta, gamma_of

FOLDER = "ema"  # in the run
MOST = 20  # snapshots of each length, unless the recipe says how often


class PowerEMA:
    """θ̂ ← β_γ(t) θ̂ + (1 − β_γ(t)) θ after every update, with β_γ(t) = (1 − 1/t)^{γ+1}.

    t = n + 1 for the n-th update (n = 0, 1, …), which thus forgets the random start. γ follows from
    `length`, σ_rel. `module` is the average, a float32 copy in evaluation mode.
    Karras et al. 2023 (arXiv:2312.02696), section 3.1.
    """

    def __init__(self, module: nn.Module, length: float) -> None:
        self.length = length
        self.gamma = gamma_of(length)
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def update(self, module: nn.Module, n: int) -> None:
        """Take in the weights of `module`, which has the structure of the one given at first."""
        take_in(self.module, module, beta(self.gamma, n + 1))

    def file(self, spec: ModelSpec, step: int, updates: int) -> TensorFile:
        """The average after `updates` updates as a model file; spec: of the network."""
        average = PowerAverage(length=self.length, updates=updates)
        changes = {"weights": "ema", "step": step, "power_average": average}
        metadata = spec.model_copy(update=changes).metadata()
        return TensorFile(self.module.state_dict(), metadata)


def snapshot_every(settings: Training) -> int:
    """Steps from one snapshot to the next: what the recipe says, or the training in MOST parts."""
    return settings.ema_snapshot_every or max(1, -(-settings.steps // MOST))


def save_snapshots(
    averages: list[PowerEMA], spec: ModelSpec, run: Path, *, step: int, updates: int
) -> None:
    """Write RUN/ema/000500-0.05.safetensors, …, each whole or not at all.

    In float32, for averages are near to each other: in 200 steps of `digits` those of 0.02 and 0.1
    were 0.35 % apart, and snapshots in float16 would have moved the former by 0.21 %, since it is
    a sum whose coefficients, of both signs, add up to 20.
    Raises DiskFull and NotFinite.
    """
    for average in averages:
        target = run / FOLDER / f"{step:06d}-{average.length:g}.safetensors"
        save_tensors_atomic(target, average.file(spec, step, updates))


def list_snapshots(run: Path) -> list[Path]:
    """The snapshots in a run folder, oldest first."""
    found = [p for p in (run / FOLDER).glob("*-*.safetensors") if p.name.split("-")[0].isdigit()]
    return sorted(found, key=lambda p: (int(p.name.split("-")[0]), p.name))


def drop_later(run: Path, step: int) -> None:
    """Delete snapshots of steps after `step`: from there on the run may go another way."""
    for path in list_snapshots(run):
        if int(path.name.split("-")[0]) > step:
            path.unlink()
    for left_over in (run / FOLDER).glob(".writing-[0-9]*"):
        left_over.unlink()
