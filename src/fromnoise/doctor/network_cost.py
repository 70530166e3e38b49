"""Measure the cost of a network on this machine: count the work of one image, time some steps."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fromnoise.config.schema import Training
from fromnoise.data.loader import to_float
from fromnoise.diffusion import Denoiser, Objective
from fromnoise.training.optimizer import build_optimizer
from fromnoise.training.precision import (
    CPU_PIXELS,
    Computation,
    autocast,
    choose_computation,
    set_memory_layout,
)

REPEATS = 3  # timed steps, of which the median counts
PASSES = 3  # forward passes that cost as much as a forward and a backward pass, about
PRODUCTS = (torch.matmul, torch.Tensor.__matmul__, torch.Tensor.matmul, torch.bmm)
GROWTH = 4  # of the batch from one trial to the next
CHOOSING = 16  # passes to choose the precision, at most


@dataclass(frozen=True)
class AttentionLayer:
    """An attention layer over all pixels of a level, for one image."""

    tokens: int  # N queries
    keys: int  # N, plus the memories of a network with memories
    heads: int
    multiply_adds: int


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network. None: not measured, because a pass takes too long."""

    parameters: int
    multiply_adds: int  # a forward pass of one image
    attention: tuple[AttentionLayer, ...]
    weight_bytes: int
    image_bytes: int | None = None  # activations for the backward pass, of one image
    step_seconds: float | None = None
    images: int = 0  # in the timed steps. A larger batch takes longer in proportion
    computation: Computation | None = None


def measure_network(
    denoiser: Denoiser,
    settings: Training,
    objective: Objective,
    shape: tuple[int, int, int],
    *,
    num_labels: int,
    seconds: float,
    computation: Computation | None = None,
) -> NetworkCost:
    """Count a network's work and time a few steps of it, in about `seconds`.

    shape: (C,H,W) of an image. computation: that of the training. None: choose it here.
    The first pass is the forward pass of one image. Each further pass starts only if there is time
    for it. The images are noise. The denoiser and the global random state do not change.
    """
    device = next(denoiser.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        trial = copy.deepcopy(denoiser).eval()
        optimizer = build_optimizer(
            trial.network, settings
        )  # the first call imports modules for seconds
        end = time.perf_counter() + seconds

        def batch(count: int) -> tuple[Tensor, Tensor | None]:
            pixels = torch.randint(256, (count, *shape), dtype=torch.uint8)
            x0 = to_float(pixels.to(device))
            return x0, torch.zeros(count, num_labels, device=device) if num_labels else None

        forward, multiply_adds, attention = count_work(trial, *batch(1))
        values: dict[str, Any] = {
            "parameters": sum(p.numel() for p in trial.parameters()),
            "multiply_adds": multiply_adds,
            "attention": attention,
            "weight_bytes": sum(p.nbytes for p in trial.parameters()),
        }
        part = -(-settings.batch_size // settings.accumulation)
        few = min(2, part)  # batch normalisation needs two
        if time.perf_counter() + forward < end:  # again: the first pass is a warm-up
            forward = min(forward, count_work(trial, *batch(1))[0])
        image = PASSES * forward
        if time.perf_counter() + few * image > end:
            return NetworkCost(**values)

        trial.train()
        if computation is None:
            left = max(end - time.perf_counter(), 0) / 2
            most = max(1, CPU_PIXELS // (shape[1] * shape[2]))
            count = max(few, min(part, most, int(left / CHOOSING / image)))
            computation = (
                choose_computation(settings, trial, objective, *batch(count))
                if left > CHOOSING * few * image
                else Computation("fp32", False)
            )
        set_memory_layout(trial, computation.channels_last)
        computation = computation._replace(compiled=False)  # a copy is not compiled
        activations = activation_bytes(trial, objective, computation, *batch(few))
        values |= {"image_bytes": activations, "computation": computation}

        def step(count: int) -> tuple[float, float]:
            """Return the seconds of a forward and backward pass, and of the optimiser's update."""
            x0, cond = batch(count)
            started = time.perf_counter()
            _loss(trial, objective, computation, x0, cond).backward()
            _wait(device)
            middle = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _wait(device)
            return middle - started, time.perf_counter() - middle

        free = free_memory(device)
        most = part if free is None else min(part, max(few, int(free / 2 / max(activations, 1))))
        count, seconds = few, step(few)[0]
        while count < most:  # an image takes longer in a small batch: grow it as time allows
            affordable = int((end - time.perf_counter()) / (1 + REPEATS) / (seconds / count))
            larger = min(most, GROWTH * count, affordable)
            if larger <= count:
                break
            count, seconds = larger, step(larger)[0]
        timed = []
        while len(timed) < REPEATS and time.perf_counter() + seconds < end:
            timed.append(step(count))
        if not timed:
            return NetworkCost(**values)
        passes, updates = zip(*timed, strict=True)
        whole = _median(passes) / count * settings.batch_size + _median(updates)
        return NetworkCost(**values, step_seconds=whole, images=count)


class _Counting(TorchFunctionMode):
    """A counter of the multiply-adds of layers and products, and a list of softmax attentions.

    The import of torch's own counter takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0
        self.attention: list[AttentionLayer] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (F.conv2d, F.linear):  # (…, C_out, …); weight[0] is for one number of the output
            self.multiply_adds += out.numel() * args[1][0].numel()
        elif func is F.conv_transpose2d:  # weight[0] is for one number of the input
            self.multiply_adds += args[0].numel() * args[1][0].numel()
        elif func in PRODUCTS:  # (…,N,K) @ (…,K,M)
            self.multiply_adds += out.numel() * args[0].shape[-1]
        elif func is torch.baddbmm:
            self.multiply_adds += out.numel() * args[1].shape[-1]
        elif func is F.scaled_dot_product_attention:
            q, k, v = args[:3]  # (B,heads,N,d), (B,heads,M,d), (B,heads,M,d')
            heads, tokens, d = q.shape[-3:]
            keys = k.shape[-2]
            multiply_adds = heads * tokens * keys * (d + v.shape[-1])
            self.multiply_adds += multiply_adds
            self.attention.append(AttentionLayer(tokens, keys, heads, multiply_adds))
        return out


def count_work(
    denoiser: Denoiser, x0: Tensor, cond: Tensor | None = None
) -> tuple[float, int, tuple[AttentionLayer, ...]]:
    """Return seconds, multiply-adds and attentions of the forward pass of one image (1,C,H,W)."""
    t = torch.ones(1, dtype=torch.long)
    with torch.no_grad(), _Counting() as counting:
        started = time.perf_counter()
        denoiser(x0, t, cond).value.sum().item()  # waits for the device
        seconds = time.perf_counter() - started
    return seconds, counting.multiply_adds, tuple(counting.attention)


def activation_bytes(
    denoiser: Denoiser,
    objective: Objective,
    computation: Computation,
    x0: Tensor,
    cond: Tensor | None,
) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, for one image.

    Runs both passes. Tensors that share memory count once. The weights do not count, nor do their
    copies in half precision, which do not depend on the number of images.
    """
    own = {p.untyped_storage().data_ptr() for p in denoiser.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = _loss(denoiser, objective, computation, x0, cond)
    loss.backward()
    loss.item()
    denoiser.zero_grad(set_to_none=True)
    half = computation.precision != "fp32"
    copies = sum(2 * p.numel() for p in denoiser.parameters() if half and p.ndim > 1)
    return max(sum(kept.values()) - copies, 0) // len(x0)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of free memory on the device. None if the system does not report them."""
    if device.type == "cuda":  # memory that torch has reserved but does not use is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")  # a container may have a lower limit than the machine
    try:
        limit = int((group / "memory.max").read_text())
        return min(available, max(limit - int((group / "memory.current").read_text()), 0))
    except (OSError, ValueError):  # no group, or no limit: "max"
        return available


def _loss(
    denoiser: Denoiser,
    objective: Objective,
    computation: Computation,
    x0: Tensor,
    cond: Tensor | None,
) -> Tensor:
    t = torch.full((len(x0),), denoiser.schedule.T // 2 + 1)
    self_conditioned = (
        torch.arange(len(x0)) % 2 == 0 if denoiser.self_conditioning else None
    )  # half, as in training
    with autocast(x0.device, computation.precision):
        return objective(
            denoiser, x0, torch.randn_like(x0), t, cond, self_conditioned=self_conditioned
        ).mean()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
