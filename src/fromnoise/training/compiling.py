"""The repeated blocks of a network compiled, where that pays within the run."""

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
GUESS = 60.0  # seconds that compiling takes, as long as nothing is known of it
WORTH = 20  # times that long the rest of the run must be, or compiling is not tried
REPEATS = 3
VERSIONS = 4  # of a block: other parts of a batch, another mode
logger = logging.getLogger("fromnoise")


class Compiling(NamedTuple):
    """Seconds that compiling took, and of a step's forward and backward before and after."""

    took: float
    before: float
    after: float

    @property
    def even(self) -> int | None:
        """Steps after which what it took is won back; None if it is not faster, so never."""
        saved = self.before - self.after
        return math.ceil(self.took / saved) if saved > 0 else None

    def __str__(self) -> str:
        even = "it is never even" if self.even is None else f"it is even after {self.even:,} steps"
        return (
            f"compiling took {self.took:.1f} s; forward and backward of a step take "
            f"{self.before:.4g} s without and {self.after:.4g} s with it: {even}"
        )


def compile_regions(network: nn.Module) -> None:
    """Let torch compile the blocks of `network.regions` at their first call, each for its shapes.

    In place: names of weights, checkpoints and copies (which are not compiled) stay as they are.
    """
    kinds = getattr(network, "regions", ())
    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    # all blocks share the code of one call, and beyond a limit of versions of it torch goes back
    # to eager without a word
    limits = torch._dynamo.config
    limits.recompile_limit += VERSIONS * len(blocks)
    limits.accumulated_recompile_limit += VERSIONS * len(blocks)
    for block in blocks:
        block.compile(dynamic=False, backend=BACKEND)


def choose_compiled(
    settings: Training,
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    steps: int,
    chosen: bool = False,
) -> bool:
    """Whether to compile, as `training.compile` says; with `auto`, whether it pays in `steps`.

    chosen: it was found to pay when the run began, and is only to be done again.

    On 2 CPU cores it takes 90 to 110 s and then saves 5 to 15 % of a step (`fashion-mnist`), about
    nothing within that run, so `auto` compiles on CUDA alone; there it tries only if the rest of
    the run lasts WORTH × GUESS seconds, and takes it if more is saved than compiling took.
    x0: a batch, or part of one, as all to come, float32 (B,C,H,W). The denoiser is left as it is.
    Raises ConfigError where `true` is impossible.
    """
    auto = settings.compile == "auto"
    given, parts = (computation, denoiser, objective, x0, cond), settings.accumulation
    if settings.compile is False:
        return False
    if auto and not chosen:
        if x0.device.type != "cuda" or denoiser.self_conditioning:
            return False
        if steps * eager_seconds(*given, parts=parts) <= WORTH * GUESS:
            return False
    try:
        found = try_compiled(*given, parts=parts)
    except ConfigError as error:
        if not auto:
            raise
        logger.warning("not compiled: %s", error)
        return False
    return chosen or not auto or (found.before - found.after) * steps > found.took


def eager_seconds(
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    parts: int,
) -> float:
    """Seconds of the forward and backward passes of a step of `parts` parts like x0, uncompiled."""
    trial = copy_with_layout(denoiser, computation.channels_last)
    timed = [time_pass(computation, trial, objective, x0, cond) for _ in range(1 + REPEATS)]
    return parts * min(timed[1:])


def try_compiled(
    computation: Computation,
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    parts: int,
) -> Compiling:
    """Compile a copy, time it in turns with an eager one, and log what came of it.

    The code is kept by torch and serves the denoiser itself. Raises ConfigError where compiling is
    impossible, or would be needed anew at each step.
    """
    if denoiser.self_conditioning:
        raise ConfigError(
            "training.compile = true, but with network.self_conditioning the first guess is of "
            "another number of images at each step, and each would be compiled anew; set "
            "training.compile = false"
        )

    def once(trial: Denoiser) -> float:
        return time_pass(computation, trial, objective, x0, cond)

    eager, compiled = (copy_with_layout(denoiser, computation.channels_last) for _ in range(2))
    once(eager)  # what is wrong here is not the compiler
    try:
        compile_regions(compiled.network)
        first = once(compiled)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "training.compile: there is no room to try it, which takes two more copies of the "
            "network and its activations; set training.compile = false"
        ) from error
    except RuntimeError as error:
        lines = (line.strip() for line in str(error).splitlines())  # the first may be a headline
        said = next((s for s in lines if s and not s.endswith(":")), type(error).__name__)
        raise ConfigError(
            f"training.compile: torch cannot compile the network on {x0.device.type} ({said}); "
            "install a C++ compiler, such as g++, or set training.compile = false"
        ) from error
    timed = [(once(eager), once(compiled)) for _ in range(REPEATS)]
    before, after = (min(seconds) for seconds in zip(*timed, strict=True))
    found = Compiling(max(first - after, 0.0), parts * before, parts * after)
    logger.info("%s", found)
    return found
