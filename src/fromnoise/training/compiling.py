"""Compile the repeated blocks of a network."""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import Denoiser, Objective
from fromnoise.training.precision import Computation, autocast, set_memory_layout

BACKEND = "inductor"
VERSIONS = 2**16  # of a block. All blocks share the code of one call, and torch's limit is 8


def compile_regions(network: nn.Module) -> None:
    """Let torch compile the blocks of `network.regions` at their first call, in place.

    Names of weights and checkpoints do not change. Copies of the network are not compiled.
    """
    kinds = getattr(network, "regions", ())
    for block in network.modules():
        if isinstance(block, kinds):
            block.compile(dynamic=False, backend=BACKEND)


def all_versions(computation: Computation) -> AbstractContextManager[None]:
    """Return the context in which every compiled block runs compiled.

    Beyond a limit of versions of the same code, torch silently runs eagerly.
    """
    if not computation.compiled:
        return nullcontext()
    return torch._dynamo.config.patch(
        {"recompile_limit": VERSIONS, "accumulated_recompile_limit": VERSIONS}
    )


def check_compiles(
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
) -> None:
    """Compile a copy for a forward and a backward pass. The denoiser does not change.

    torch keeps the code and uses it for the denoiser. x0: a part of a batch, float32 (B,C,H,W).
    Raises ConfigError if compiling is impossible, or if each step would need it again.
    """
    if denoiser.self_conditioning:
        raise ConfigError(
            "training.compile = true, but network.self_conditioning estimates x_0 for another "
            "number of images at each step, and each number would be compiled. Set "
            "training.compile = false."
        )
    trial = set_memory_layout(copy.deepcopy(denoiser).train(), computation.channels_last)
    compile_regions(trial.network)
    t = torch.full((len(x0),), trial.schedule.T // 2 + 1)
    try:
        with all_versions(computation):
            with autocast(x0.device, computation.precision):
                loss = objective(trial, x0, torch.zeros_like(x0), t, cond).mean()
            loss.backward()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "training.compile: not enough memory to try it, which needs a second copy of the "
            "network. Set training.compile = false, or a larger training.accumulation."
        ) from error
    except RuntimeError as error:
        lines = (line.strip() for line in str(error).splitlines())  # the first may be a heading
        reason = next((s for s in lines if s and not s.endswith(":")), type(error).__name__)
        raise ConfigError(
            f"training.compile: torch cannot compile the network on {x0.device.type} ({reason}). "
            "Install a C++ compiler, such as g++, or set training.compile = false."
        ) from error
