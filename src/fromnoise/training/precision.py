"""The number format and memory layout of the computation. Weights stay in float32."""

import copy
import math
import time
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fromnoise.config.schema import Training
from fromnoise.diffusion import Denoiser, Objective

Precision = Literal["fp32", "bf16", "fp16"]
GAIN = 1.1  # bf16 must be this much faster than fp32 to be worth its rounding errors
REPEATS = 3
CPU_PIXELS = 2**14  # of a probe on a CPU, 16 images of 32x32: more would take long


class Computation(NamedTuple):
    """The number format and memory layout of a run. A resumed run keeps them."""

    precision: Precision
    channels_last: bool
    compiled: bool = False  # the blocks of the network, see `compiling`

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.precision}, {layout}{', compiled' if self.compiled else ''}"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a forward pass runs in `precision`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def set_memory_layout(denoiser: Denoiser, channels_last: bool) -> Denoiser:
    """Set the memory layout of the convolutions, in place. Return the denoiser."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return denoiser.to(memory_format=layout)


def choose_computation(
    settings: Training,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
) -> Computation:
    """Return the computation by `settings`. For `auto`, time the candidates, return the fastest.

    bf16 is chosen only if it is GAIN times as fast as fp32.
    x0: a batch of the training, float32 (B,C,H,W), on the denoiser's device. The denoiser does not
    change. Raises ValueError for fp16 on a CPU.
    """
    if settings.precision == "fp16" and x0.device.type == "cpu":
        raise ValueError("training.precision = 'fp16' needs a GPU. On a CPU use auto, fp32 or bf16")
    precisions: tuple[Precision, ...] = (
        ("fp32", "bf16") if settings.precision == "auto" else (settings.precision,)
    )
    layouts = (False, True) if settings.channels_last == "auto" else (settings.channels_last,)
    candidates = [Computation(*pair) for pair in product(precisions, layouts)]
    if len(candidates) == 1:
        return candidates[0]
    if x0.device.type == "cpu":
        few = max(1, CPU_PIXELS // x0[0, 0].numel())
        x0, cond = x0[:few], cond if cond is None else cond[:few]

    seconds = probe(candidates, denoiser, objective, x0, cond)
    if len(precisions) > 1:
        seconds = {c: s * GAIN if c.precision == "bf16" else s for c, s in seconds.items()}
    return min(candidates, key=lambda candidate: seconds[candidate])


def probe(
    candidates: Sequence[Computation],
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
) -> dict[Computation, float]:
    """Return the seconds of the fastest of a few forward and backward passes, after a warm-up.

    The candidates take turns, so that other load on the machine slows all of them. A candidate that
    does not fit into memory takes ∞ seconds. Raises OutOfMemoryError if none fits.
    """
    copies = {
        layout: copy_with_layout(denoiser, layout)
        for layout in {candidate.channels_last for candidate in candidates}
    }
    seconds: dict[Computation, list[float]] = {candidate: [] for candidate in candidates}
    fits = dict.fromkeys(candidates, True)
    for _ in range(1 + REPEATS):
        for candidate in filter(fits.get, candidates):
            trial = copies[candidate.channels_last]
            try:
                seconds[candidate].append(time_pass(candidate, trial, objective, x0, cond))
            except torch.OutOfMemoryError:
                fits[candidate] = False
                trial.zero_grad(set_to_none=True)
                if not any(fits.values()):
                    raise
    return {c: min(timed[1:]) if fits[c] else math.inf for c, timed in seconds.items()}


def copy_with_layout(denoiser: Denoiser, channels_last: bool) -> Denoiser:
    """Return a copy in that memory layout, in training mode, for a probe."""
    return set_memory_layout(copy.deepcopy(denoiser).train(), channels_last)


def time_pass(
    computation: Computation,
    trial: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
) -> float:
    """Return the seconds of one forward and backward pass of `trial`, from `copy_with_layout`."""
    t = torch.full((len(x0),), trial.schedule.T // 2 + 1)
    start = time.perf_counter()
    with autocast(x0.device, computation.precision):
        loss = objective(trial, x0, torch.zeros_like(x0), t, cond).mean()
    loss.backward()
    loss.item()  # waits for the device
    seconds = time.perf_counter() - start
    trial.zero_grad(set_to_none=True)
    return seconds
