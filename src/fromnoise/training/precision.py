"""The number format, memory layout and compilation of a training. Weights stay in float32."""

from typing import Literal, NamedTuple

import torch
from torch.utils._triton import has_triton

from fromnoise.config.schema import Training
from fromnoise.diffusion import Denoiser
from fromnoise.model.precision import auto, channels_last, default_precision

Precision = Literal["fp32", "bf16", "fp16"]
# A step of a U-Net on a GPU launches over a thousand kernels, and compiling saves at least 5 ms of
# it. Not measured here, nor is compiling on CUDA, which takes about 100 s on 2 CPU cores.
COMPILING, SAVED = 100.0, 0.005  # seconds, and of a step


class Computation(NamedTuple):
    """The number format and memory layout of a run. A resumed run keeps them."""

    precision: Precision
    channels_last: bool
    compiled: bool = False  # the blocks of the network, see `compiling`

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.precision}, {layout}{', compiled' if self.compiled else ''}"


def choose_computation(settings: Training, denoiser: Denoiser, steps: int) -> Computation:
    """Return the computation by `settings`. `auto` follows the table of `model/precision.py`.

    steps: what is left of the training. Raises ValueError for fp16 on a CPU.
    """
    device = next(denoiser.parameters()).device
    precision, last, compiled = settings.precision, settings.channels_last, settings.compile
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(
            "training.precision = 'fp16' needs a GPU. On a CPU use auto, fp32 or bf16."
        )
    if precision == "auto":
        precision = default_precision(device)
    if last == "auto":
        last = channels_last(device, precision, denoiser.network)
    if compiled == "auto":
        pays = auto(device, precision).compiled and steps * SAVED > COMPILING
        compiled = pays and not denoiser.self_conditioning and has_triton()
    return Computation(precision, last, compiled)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a forward pass runs in `precision`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def set_memory_layout(denoiser: Denoiser, channels_last: bool) -> Denoiser:
    """Set the memory layout of the convolutions, in place. Return the denoiser."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return denoiser.to(memory_format=layout)
