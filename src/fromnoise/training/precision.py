"""The number format, memory layout and compilation of a training. Weights stay in float32."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._triton import has_triton

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Training
from fromnoise.diffusion import Denoiser, Objective
from fromnoise.model.precision import channels_last, default_precision
from fromnoise.networks.layers import dropout_keys
from fromnoise.networks.recomputation import regions_of

Precision = Literal["fp32", "bf16", "fp16"]
# A step of a U-Net on a GPU launches over a thousand kernels, and compiling saves at least 5 ms of
# it. Not measured here, nor is compiling on CUDA, which takes about 100 s on 2 CPU cores.
COMPILING, SAVED = 100.0, 0.005  # seconds, and of a step
BACKEND = "inductor"
# Options of torch's compiler, of which an older torch lacks some. Reindexed loops may read channels
# last out of order: by reports, upsampling before GroupNorm took 6 times as long on CUDA. Not
# measured here: benchmarks/gpu.py measures with and without.
OPTIONS: dict[str, Any] = {"loop_reindexing_after_fusion": False}
VERSIONS = 2**16  # of one function, which all blocks share. torch's limit is 8


class Computation(NamedTuple):
    """The number format and memory layout of a run. A resumed run keeps them."""

    precision: Precision
    channels_last: bool
    compiled: bool = False  # the blocks of the network

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.precision}, {layout}{', compiled' if self.compiled else ''}"


def choose_computation(settings: Training, denoiser: Denoiser, steps: int) -> Computation:
    """Return the computation by `settings`. `auto` follows the table of `model/precision.py`.

    steps: the remaining ones of the training. Raises ValueError for fp16 on a CPU.
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
        pays = device.type == "cuda" and steps * SAVED > COMPILING
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


def compile_regions(network: nn.Module) -> None:
    """Let torch compile the blocks of `network.regions` at their first call, in place.

    Names of weights and checkpoints do not change. Copies of the network are not compiled.
    """
    for block in regions_of(network):
        block.compile(dynamic=False, backend=BACKEND)


@contextmanager
def all_versions(computation: Computation) -> Iterator[None]:
    """Return a context with a high limit of compiled versions, and with OPTIONS.

    Beyond its own limit, torch silently runs a function without compiling it.
    """
    if not computation.compiled:
        yield
        return
    from torch._inductor import config  # seconds

    limits = {"recompile_limit": VERSIONS, "accumulated_recompile_limit": VERSIONS}
    known = {name: value for name, value in OPTIONS.items() if hasattr(config, name)}
    with torch._dynamo.config.patch(limits), config.patch(known):
        yield


def check_compiles(
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
) -> None:
    """Compile a copy for a forward and a backward pass. The denoiser does not change.

    torch caches the code and uses it for the denoiser. x0: a part of a batch, float32 (B,C,H,W).
    Raises ConfigError if compiling is impossible, or if each step would compile again.
    """
    if denoiser.self_conditioning:
        raise ConfigError(
            "training.compile = true, but with network.self_conditioning the number of images in a "
            "pass varies, and torch would compile for each number. Set training.compile = false."
        )
    trial = set_memory_layout(copy.deepcopy(denoiser).train(), computation.channels_last)
    compile_regions(trial.network)
    t = torch.full((len(x0),), trial.schedule.T // 2 + 1)
    try:
        with all_versions(computation):
            keys = torch.arange(len(x0), device=x0.device)
            with autocast(x0.device, computation.precision), dropout_keys(trial.network, keys):
                loss = objective(trial, x0, torch.zeros_like(x0), t, cond).mean()
            loss.backward()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "training.compile: out of memory while compiling, which needs a second copy of the "
            "network. Set training.compile = false, or a larger training.parts."
        ) from error
    except RuntimeError as error:
        lines = (line.strip() for line in str(error).splitlines())  # the first may be a heading
        reason = next((s for s in lines if s and not s.endswith(":")), type(error).__name__)
        raise ConfigError(
            f"training.compile: torch cannot compile the network on {x0.device.type} ({reason}). "
            "Install a C++ compiler, such as g++, or set training.compile = false."
        ) from error
