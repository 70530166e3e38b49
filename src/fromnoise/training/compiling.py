"""Compile the repeated blocks of a network, if that saves time within the run."""

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Training
from fromnoise.diffusion import Denoiser, Objective
from fromnoise.training.precision import Computation, copy_with_layout, time_pass

BACKEND = "inductor"
TYPICAL_SECONDS = 60.0  # of compiling
MIN_RATIO = 20  # of the rest of the run to TYPICAL_SECONDS, or compiling is not tried
REPEATS = 3
VERSIONS = 4  # of a block: for other batch sizes, for train and eval mode
logger = logging.getLogger("fromnoise")


class CompileTiming(NamedTuple):
    """Seconds to compile, and of a step's forward and backward passes without and with it."""

    compile: float
    eager: float
    compiled: float

    @property
    def break_even(self) -> int | None:
        """The number of steps that save the time to compile. None if no time is saved."""
        saved = self.eager - self.compiled
        return math.ceil(self.compile / saved) if saved > 0 else None

    def __str__(self) -> str:
        steps = "never" if self.break_even is None else f"after {self.break_even:,} steps"
        return (
            f"compiling took {self.compile:.1f} s. Forward and backward of a step take "
            f"{self.eager:.4g} s without and {self.compiled:.4g} s with it: break-even {steps}"
        )


def compile_regions(network: nn.Module) -> None:
    """Let torch compile the blocks of `network.regions` at their first call, in place.

    Names of weights and checkpoints do not change. Copies of the network are not compiled.
    """
    kinds = getattr(network, "regions", ())
    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    # all blocks share the code of one call. Beyond a limit of versions of it, torch silently runs
    # eagerly
    limits = torch._dynamo.config
    limits.recompile_limit += VERSIONS * len(blocks)
    limits.accumulated_recompile_limit += VERSIONS * len(blocks)
    for block in blocks:
        block.compile(dynamic=False, backend=BACKEND)


def should_compile(
    settings: Training,
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    steps: int,
    compiled_before: bool = False,
) -> bool:
    """Return whether to compile, by `training.compile`. `auto`: if it saves time in `steps` steps.

    On 2 CPU cores compiling takes 90 to 110 s and saves 5 to 15 % of a step (`fashion-mnist`),
    about nothing in that run, so `auto` compiles on CUDA only. There it tries if the rest of the
    run takes MIN_RATIO × TYPICAL_SECONDS, and compiles if that saves more than it costs.
    compiled_before: the run was compiled before it was resumed, so `auto` compiles again.
    x0: a batch, or a part of one, float32 (B,C,H,W). The denoiser does not change.
    Raises ConfigError if `training.compile` is true and compiling is impossible.
    """
    auto = settings.compile == "auto"
    inputs, parts = (computation, denoiser, objective, x0, cond), settings.accumulation
    if settings.compile is False:
        return False
    if auto and not compiled_before:
        if x0.device.type != "cuda" or denoiser.self_conditioning:
            return False
        if steps * time_eager_step(*inputs, parts=parts) <= MIN_RATIO * TYPICAL_SECONDS:
            return False
    try:
        timing = time_compiling(*inputs, parts=parts)
    except ConfigError as error:
        if not auto:
            raise
        logger.warning("not compiled: %s", error)
        return False
    saved = (timing.eager - timing.compiled) * steps
    return compiled_before or not auto or saved > timing.compile


def time_eager_step(
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    parts: int,
) -> float:
    """Return the seconds of forward and backward of a step of `parts` parts like x0, uncompiled."""
    trial = copy_with_layout(denoiser, computation.channels_last)
    timed = [time_pass(computation, trial, objective, x0, cond) for _ in range(1 + REPEATS)]
    return parts * min(timed[1:])


def time_compiling(
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    parts: int,
) -> CompileTiming:
    """Compile a copy, time it in turns with an eager one, and log the result.

    torch keeps the code and uses it for the denoiser. Raises ConfigError if compiling is
    impossible, or if each step would need it again.
    """
    if denoiser.self_conditioning:
        raise ConfigError(
            "training.compile = true, but network.self_conditioning estimates x_0 for another "
            "number of images at each step, and each number would be compiled. Set "
            "training.compile = false"
        )

    def once(trial: Denoiser) -> float:
        return time_pass(computation, trial, objective, x0, cond)

    eager, compiled = (copy_with_layout(denoiser, computation.channels_last) for _ in range(2))
    once(eager)  # an error here is not the compiler's
    try:
        compile_regions(compiled.network)
        first = once(compiled)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "training.compile: not enough memory to try it, which needs two copies of the network "
            "and its activations. Set training.compile = false"
        ) from error
    except RuntimeError as error:
        lines = (line.strip() for line in str(error).splitlines())  # the first may be a heading
        reason = next((s for s in lines if s and not s.endswith(":")), type(error).__name__)
        raise ConfigError(
            f"training.compile: torch cannot compile the network on {x0.device.type} ({reason}). "
            "Install a C++ compiler, such as g++, or set training.compile = false"
        ) from error
    timings = [(once(eager), once(compiled)) for _ in range(REPEATS)]
    before, after = (min(seconds) for seconds in zip(*timings, strict=True))
    timing = CompileTiming(max(first - after, 0.0), parts * before, parts * after)
    logger.info("%s", timing)
    return timing
