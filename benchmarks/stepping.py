"""One training step as the training loop does it, and as a plain script would, for benchmarks."""

import time
from collections.abc import Callable

import torch
from report import Samples
from torch import Tensor, nn

from fromnoise.config import Training
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.training.loop import Batch, backward
from fromnoise.training.precision import choose_computation
from fromnoise.training.state import TrainingState

Step = Callable[[], object]


def our_step(
    network: nn.Module, x0: Tensor, eps: Tensor, t: Tensor, cond: Tensor | None = None
) -> tuple[str, Step]:
    """Our name in the table, and a step: probed precision, clipping, fused Adam, moving average."""
    denoiser = Denoiser(network, NoiseSchedule.named("linear", 1000)).train()
    objective = Objective()
    pixels = ((x0 + 1) * 127.5).round().to(torch.uint8)
    settings = Training(steps=1, batch_size=len(x0))
    computation = choose_computation(settings, denoiser, objective, x0, cond)
    state = TrainingState.start(denoiser, settings, computation)
    parameters = list(denoiser.parameters())
    batch = Batch(pixels, eps, t, cond)

    def step() -> None:
        backward(state, objective, batch, 1)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True).item()
        state.optimizer.step()
        state.ema.update(denoiser.network, state.updates)
        state.optimizer.zero_grad(set_to_none=True)

    return f"fromnoise, {computation}", step


def plain_step(predict: Callable[[], Tensor], target: Tensor, parameters: list[Tensor]) -> Step:
    """Forward, mean squared error, backward and Adam, in whatever precision `predict` has."""
    optimizer = torch.optim.Adam(parameters, lr=2e-4)

    def step() -> None:
        torch.nn.functional.mse_loss(predict().float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rates(steps: dict[str, Step], images: int, repeats: int) -> Samples:
    """Images per second of each, one step of each in turn; the first round only warms up."""
    samples: Samples = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat > 0:
                samples[name].append(images / (time.perf_counter() - start))
    return samples
