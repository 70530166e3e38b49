"""Measure the cost of a network on this machine: count the work of one image, time some steps."""

import copy
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fromnoise.config.schema import Recipe
from fromnoise.data.loader import to_float
from fromnoise.diffusion import Denoiser
from fromnoise.model.precision import without_tf32
from fromnoise.model.spec import ModelSpec
from fromnoise.networks.recomputation import checkpoint_regions, regions_of
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState
from fromnoise.training.step import Batch, backward

REPEATS, GROWTH = 3, 4  # timed steps; of the batch from one trial to the next
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # counted from torch 2.15 on


class Attention(NamedTuple):
    """An attention layer over all pixels of a level, for one image."""

    tokens: int  # N queries
    keys: int  # N, plus the memories of a network with memories
    heads: int
    multiply_adds: int


class Cost(NamedTuple):
    """The cost of a network. None: not measured, because a pass takes too long."""

    parameters: int
    weight_bytes: int
    multiply_adds: int  # a forward pass of one image
    attention: tuple[Attention, ...]
    image_bytes: int | None = None  # activations for the backward pass, of one image
    checkpointed_bytes: int | None = None  # the same with `training.checkpoint_gradients`
    step_seconds: float | None = None


class Attentions(TorchFunctionMode):
    """A context that records its softmax attentions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Attention] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, v = (each.shape for each in args[:3])  # (1,heads,N,d), (1,heads,M,d), …
            self.layers.append(Attention(q[2], k[2], q[1], sdpa_flop_count(q, k, v) // 2))
        return func(*args, **(kwargs or {}))


def count_work(
    denoiser: Denoiser, x0: Tensor, cond: Tensor | None = None
) -> tuple[float, int, tuple[Attention, ...]]:
    """Return seconds, multiply-adds and attentions of the forward pass of one image (1,C,H,W)."""
    own = {FUSED: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    counter, started = FlopCounterMode(display=False, custom_mapping=own), time.perf_counter()
    with torch.no_grad(), Attentions() as attentions, counter:
        denoiser(x0, torch.ones(1).long(), cond).value.sum().item()  # waits for the device
    seconds = time.perf_counter() - started
    return seconds, counter.get_total_flops() // 2, tuple(attentions.layers)


class Activations(NamedTuple):
    """Bytes for the backward pass: of all activations, and of those kept with checkpointing.

    With checkpointing these are the inputs of the blocks of `regions`, the activations between the
    blocks, and, in the backward pass, those of the largest block.
    """

    everything: int
    checkpointed: int


def activation_bytes(denoiser: Denoiser, passes: Callable[[], object], half: bool) -> Activations:
    """Return the bytes that a forward pass keeps for the backward pass.

    passes: runs both passes, without checkpointing. Tensors that share memory count once. Weights
    do not count, and neither do their copies in half precision, because they do not depend on the
    number of images.
    """
    regions = regions_of(denoiser.network)
    weights = {p.untyped_storage().data_ptr() for p in denoiser.parameters()}
    between: dict[int, int] = {}  # address → bytes
    within: list[tuple[nn.Module, dict[int, int]]] = []  # each call of a block
    inputs: list[Tensor] = []
    kept = [between]

    def note(tensor: Tensor) -> Tensor:
        kept[-1][tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def enter(block: nn.Module, given: tuple[object, ...]) -> None:
        if len(kept) == 1:
            within.append((block, {}))
            inputs.extend(x for x in given if isinstance(x, Tensor) and torch.is_grad_enabled())
        kept.append(within[-1][1])  # a nested block belongs to the outer one

    def leave(*_: object) -> None:
        kept.pop()

    def total(of: dict[int, int], parameters: Iterable[Tensor]) -> int:
        """Return the bytes without weights and their copies."""
        copies = sum(2 * p.numel() for p in parameters if half and p.ndim > 1)
        return max(sum(of[place] for place in of.keys() - weights) - copies, 0)

    hooks = [block.register_forward_pre_hook(enter) for block in regions]
    hooks += [block.register_forward_hook(leave, always_call=True) for block in regions]
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            passes()
    finally:
        for hook in hooks:
            hook.remove()
    denoiser.zero_grad(set_to_none=True)
    everything = dict(between)
    for _, block in within:
        everything |= block
    for x in inputs:
        note(x)
    new = [
        total({place: each[place] for place in each.keys() - between.keys()}, block.parameters())
        for block, each in within
    ]
    of_blocks = {p for block in regions for p in block.parameters()}
    others = [p for p in denoiser.parameters() if p not in of_blocks]
    return Activations(
        total(everything, denoiser.parameters()), total(between, others) + max(new, default=0)
    )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of free memory on the device. None if the system does not report them."""
    if device.type == "cuda":  # memory that torch has reserved but does not use is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = None
    with suppress(OSError, ValueError, IndexError):  # not Linux, or no container with a limit
        if device.type == "cpu":
            kib = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
            free = 1024 * int(kib)
            group = Path("/sys/fs/cgroup")  # a container may have a lower limit than the machine
            limit, used = (int((group / f"memory.{s}").read_text()) for s in ("max", "current"))
            free = min(free, max(limit - used, 0))
    return free


def measure(
    denoiser: Denoiser, recipe: Recipe, spec: ModelSpec, computation: Computation, seconds: float
) -> Cost:
    """Count a network's work and time a few steps of it, in about `seconds`.

    The first pass is the forward pass of one image. Each further pass starts only if there is time
    for it. The network and the global random state do not change.
    """
    device, now = next(denoiser.parameters()).device, time.perf_counter
    settings, objective = recipe.training, recipe.diffusion.objective()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), without_tf32():
        eager = computation._replace(compiled=False)
        plain = settings.model_copy(update={"checkpoint_gradients": False})
        trial = TrainingState.start(copy.deepcopy(denoiser).eval(), plain, eager)
        part = settings.batch_size // settings.parts
        count, end = min(2, part), now() + seconds  # batch normalisation needs two images

        def batch(count: int) -> Batch:
            shape = count, spec.channels, *spec.size
            x0 = torch.randint(256, shape, dtype=torch.uint8, device=device)
            t = torch.full((count,), denoiser.schedule.T // 2 + 1)
            cond = torch.zeros(count, spec.cond_dim, device=device) if spec.cond_dim else None
            half = torch.arange(count) % 2 == 0 if denoiser.self_conditioning else None
            return Batch(x0, torch.randn(shape, device=device), t, cond, None, half)

        def passes() -> Tensor:
            return backward(trial, objective, images, parts=1)

        def seconds_of(work: Callable[[], object]) -> float:
            started = now()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return now() - started

        images = batch(1)
        one = trial.denoiser, to_float(images.x0), images.cond
        forward, multiply_adds, attention = count_work(*one)
        if now() + forward < end:  # again, because the first pass is a warm-up
            forward = min(forward, count_work(*one)[0])
        weights = list(denoiser.parameters())
        sizes = sum(p.numel() for p in weights), sum(p.nbytes for p in weights)
        cost = Cost(*sizes, multiply_adds, attention)
        if now() + 3 * count * forward > end:  # a backward pass takes about two forward passes
            return cost

        trial.denoiser.train()
        images = batch(count)
        seen = activation_bytes(trial.denoiser, passes, computation.precision != "fp32")
        kept, checkpointed = (each // count for each in seen)
        if settings.checkpoint_gradients:
            kept = checkpointed
            checkpoint_regions(trial.denoiser.network)
        cost = cost._replace(image_bytes=kept, checkpointed_bytes=checkpointed)
        most = min(part, max(count, (free_memory(device) or 2**50) // 2 // max(kept, 1)))
        both = seconds_of(passes)
        while count < most and 2 * GROWTH * both < end - now():
            count = min(GROWTH * count, most)  # an image takes longer in a small batch
            images = batch(count)
            both = seconds_of(passes)
        timed = []
        while len(timed) < REPEATS and now() + both < end:
            timed.append((seconds_of(passes), seconds_of(trial.optimizer.step)))
        if not timed:
            return cost
        both, update = (sorted(each)[len(timed) // 2] for each in zip(*timed, strict=True))
        return cost._replace(step_seconds=both / count * settings.batch_size + update)
