"""In which number format the network computes; the weights themselves stay in float32."""

import copy
import time
from typing import Literal

import torch
from torch import Tensor

from fromnoise.diffusion import Denoiser, Objective

Precision = Literal["fp32", "bf16", "fp16"]
GAIN = 1.1  # bf16 must be this much faster than fp32 to be worth its rounding
REPEATS = 3


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a forward pass runs in `precision`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp16"],
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
) -> tuple[Precision, str]:
    """The precision to train in, and why. `auto` is bf16 where a timed probe finds it faster.

    x0: a batch like those to come, float32 (B,C,H,W), on the denoiser's device. The denoiser is
    left as it is. Raises ValueError for fp16 on a CPU.
    """
    if wanted == "fp16" and x0.device.type == "cpu":
        raise ValueError(
            "training.precision = 'fp16' needs a GPU; on a CPU take auto, fp32 or bf16"
        )
    if wanted != "auto":
        return wanted, "as asked"
    trial = copy.deepcopy(denoiser).train()  # whatever a forward pass changes, it changes here
    seconds: dict[Precision, float] = {
        "fp32": _probe(trial, objective, x0, cond, "fp32"),
        "bf16": _probe(trial, objective, x0, cond, "bf16"),
    }
    ratio = seconds["fp32"] / seconds["bf16"]
    return ("bf16" if ratio >= GAIN else "fp32"), f"bf16 took 1/{ratio:.2f} of the time in a probe"


def _probe(
    denoiser: Denoiser, objective: Objective, x0: Tensor, cond: Tensor | None, precision: Precision
) -> float:
    """Seconds of the fastest of a few forward and backward passes, after one to warm up."""
    t = torch.full((len(x0),), denoiser.schedule.T // 2 + 1)
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        with autocast(x0.device, precision):
            loss = objective(denoiser, x0, torch.zeros_like(x0), t, cond).mean()
        loss.backward()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
