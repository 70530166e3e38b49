"""What a network costs on this machine: counted on one image, measured on a few, never trained."""

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

REPEATS = 3  # timed passes; their median is taken
PASSES = 3  # a forward and a backward pass cost about three forward passes
PRODUCTS = (torch.matmul, torch.Tensor.__matmul__, torch.Tensor.matmul, torch.bmm)
GROWTH = 4  # from one batch that is tried to the next
CHOOSING = 16  # passes in which the precision is chosen, at most


@dataclass(frozen=True)
class Attended:
    """One attention over all pixels of a level, in one image."""

    tokens: int  # N queries
    keys: int  # N, and the memories of a network that has some
    heads: int
    multiply_adds: int


@dataclass(frozen=True)
class Measured:
    """What a network costs. None: a pass would have taken longer than there was time for."""

    parameters: int
    multiply_adds: int  # a forward pass of one image
    attention: tuple[Attended, ...]
    weight_bytes: int
    image_bytes: int | None = None  # kept for the backward pass, for each image of a part
    step_seconds: float | None = None
    images: int = 0  # that the timed passes had; steps of more are longer in proportion
    computation: Computation | None = None


def measure(
    denoiser: Denoiser,
    settings: Training,
    objective: Objective,
    shape: tuple[int, int, int],
    *,
    num_labels: int,
    seconds: float,
    computation: Computation | None = None,
) -> Measured:
    """Count a network's work and time a few steps of it, in about `seconds`.

    shape: (C,H,W) of an image. computation: as the training will have it; None: it is chosen here.
    Time is looked at before each pass, and the first is the forward pass of one image. Neither the
    denoiser nor any random number of the caller is changed; the images are noise of its own.
    """
    device = next(denoiser.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        trial = copy.deepcopy(denoiser).eval()
        optimizer = build_optimizer(trial.network, settings)  # it is imported then: for seconds
        end = time.perf_counter() + seconds

        def batch(count: int) -> tuple[Tensor, Tensor | None]:
            pixels = torch.randint(256, (count, *shape), dtype=torch.uint8)
            x0 = to_float(pixels.to(device))
            return x0, torch.zeros(count, num_labels, device=device) if num_labels else None

        forward, multiply_adds, attention = count_work(trial, *batch(1))
        facts: dict[str, Any] = {
            "parameters": sum(p.numel() for p in trial.parameters()),
            "multiply_adds": multiply_adds,
            "attention": attention,
            "weight_bytes": sum(p.nbytes for p in trial.parameters()),
        }
        part = -(-settings.batch_size // settings.accumulation)
        few = min(2, part)  # an average over a batch needs two
        if time.perf_counter() + forward < end:  # once more, for the first pass warms up
            forward = min(forward, count_work(trial, *batch(1))[0])
        image = PASSES * forward
        if time.perf_counter() + few * image > end:
            return Measured(**facts)

        trial.train()
        if computation is None:
            left = max(end - time.perf_counter(), 0) / 2
            there = max(1, CPU_PIXELS // (shape[1] * shape[2]))
            count = max(few, min(part, there, int(left / CHOOSING / image)))
            try_out = left > CHOOSING * few * image
            computation = (
                choose_computation(settings, trial, objective, *batch(count))
                if try_out
                else Computation("fp32", False)
            )
        set_memory_layout(trial, computation.channels_last)
        computation = computation._replace(compiled=False)  # as a copy is
        kept = kept_bytes(trial, objective, computation, *batch(few))
        facts |= {"image_bytes": kept, "computation": computation}

        def step(count: int) -> tuple[float, float]:
            """Seconds of a forward and backward pass, and of what follows it once a step."""
            x0, cond = batch(count)
            started = time.perf_counter()
            _loss(trial, objective, computation, x0, cond).backward()
            _wait(device)
            middle = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _wait(device)
            return middle - started, time.perf_counter() - middle

        free = memory_free(device)
        most = part if free is None else min(part, max(few, int(free / 2 / max(kept, 1))))
        count, seconds = few, step(few)[0]
        while count < most:  # small batches are slow, an image: towards a whole one, as time allows
            affordable = int((end - time.perf_counter()) / (1 + REPEATS) / (seconds / count))
            larger = min(most, GROWTH * count, affordable)
            if larger <= count:
                break
            count, seconds = larger, step(larger)[0]
        timed = []
        while len(timed) < REPEATS and time.perf_counter() + seconds < end:
            timed.append(step(count))
        if not timed:
            return Measured(**facts)
        passes, updates = zip(*timed, strict=True)
        whole = _median(passes) / count * settings.batch_size + _median(updates)
        return Measured(**facts, step_seconds=whole, images=count)


class _Counting(TorchFunctionMode):
    """Counts the multiply-adds of layers and products, and notes every softmax attention.

    The counter of torch itself takes seconds to be imported.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0
        self.attention: list[Attended] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (F.conv2d, F.linear):  # (…, C_out, …); weight[0] makes one number of it
            self.multiply_adds += out.numel() * args[1][0].numel()
        elif func is F.conv_transpose2d:  # weight[0] is what one number of the input is put into
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
            self.attention.append(Attended(tokens, keys, heads, multiply_adds))
        return out


def count_work(
    denoiser: Denoiser, x0: Tensor, cond: Tensor | None = None
) -> tuple[float, int, tuple[Attended, ...]]:
    """Seconds, multiply-adds and attentions of the forward pass of one image, (1,C,H,W)."""
    t = torch.ones(1, dtype=torch.long)
    with torch.no_grad(), _Counting() as counting:
        started = time.perf_counter()
        denoiser(x0, t, cond).value.sum().item()  # waits for the device
        seconds = time.perf_counter() - started
    return seconds, counting.multiply_adds, tuple(counting.attention)


def kept_bytes(
    denoiser: Denoiser,
    objective: Objective,
    computation: Computation,
    x0: Tensor,
    cond: Tensor | None,
) -> int:
    """Bytes that a forward pass keeps for the backward pass, an image; the backward pass is run.

    Tensors that share memory count once, the weights not at all, and nor do their copies in half
    precision, of which there is one for any number of images.
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


def memory_free(device: torch.device) -> int | None:
    """Bytes that are there to be taken on the device; None where the system does not say."""
    if device.type == "cuda":  # what torch keeps for itself without using it is there, too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")  # a container may have less than the machine
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
