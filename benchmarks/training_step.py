"""A training step of the paper's 35.7 M network, ours beside diffusers', in one interleaved run.

Both networks have the same shape and no dropout, and see the same batch. Ours does all that the
training loop does in a step (precision chosen by the probe, clipping, fused Adam, moving average);
theirs does forward, backward and AdamW in its default float32, and again in bfloat16 autocast.
"""

import argparse
import time
from collections.abc import Callable

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from report import Samples, machine, print_ratios, save

from fromnoise.config import Training
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.interop.diffusers import unet_config
from fromnoise.networks import DDPM
from fromnoise.training.loop import backward
from fromnoise.training.precision import choose_computation
from fromnoise.training.state import TrainingState


def ours(x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> tuple[str, Callable[[], None]]:
    """Our name in the table, and one step."""
    denoiser = Denoiser(DDPM(dropout=0.0), NoiseSchedule.named("linear", 1000))
    denoiser.train()
    objective = Objective()
    pixels = ((x0 + 1) * 127.5).round().to(torch.uint8)
    settings = Training(steps=1, batch_size=len(x0))
    computation = choose_computation(settings, denoiser, objective, x0)
    state = TrainingState.start(denoiser, settings, computation)
    parameters = list(denoiser.parameters())

    def step() -> None:
        backward(state, objective, pixels, eps, t, None, 1)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True).item()
        state.optimizer.step()
        state.ema.update(denoiser.network, state.updates)
        state.optimizer.zero_grad(set_to_none=True)

    return f"fromnoise, {computation}", step


def theirs(
    x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, autocast: bool
) -> tuple[str, Callable[[], None]]:
    """Their name in the table, and one step."""
    network = UNet2DModel(**unet_config(DDPM(dropout=0.0)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
    x_t = NoiseSchedule.named("linear", 1000).add_noise(x0, eps, t)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.mse_loss(network(x_t, t - 1).sample.float(), eps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return f"diffusers, {'bf16 autocast' if autocast else 'fp32'}", step


def main() -> None:
    """Print and keep the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    n = arguments.batch_size

    torch.manual_seed(0)
    x0, eps, t = torch.rand(n, 3, 32, 32) * 2 - 1, torch.randn(n, 3, 32, 32), torch.arange(1, n + 1)
    steps = dict([ours(x0, eps, t), theirs(x0, eps, t, False), theirs(x0, eps, t, True)])
    rates: Samples = {name: [] for name in steps}
    for repeat in range(arguments.repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat > 0:  # the first one warms up
                rates[name].append(n / (time.perf_counter() - start))
    print(f"training step, 35.7 M parameters, 32x32, batch {n}; {machine()}")
    print_ratios(rates, "images/s")
    save("training_step", {"batch_size": n, "images_per_second": rates})


if __name__ == "__main__":
    main()
