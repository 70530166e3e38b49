"""A training step of the paper's 35.7 M network, ours beside diffusers', in one interleaved run.

Both networks have the same shape and no dropout, and see the same batch. Ours does all that the
training loop does in a step (precision chosen by the probe, clipping, fused Adam, moving average);
theirs does forward, backward and Adam in its default float32, and again in bfloat16 autocast.
"""

import argparse

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from report import machine, print_ratios, save
from stepping import Step, our_step, plain_step, rates

from fromnoise.diffusion import NoiseSchedule
from fromnoise.interop.diffusers import unet_config
from fromnoise.networks import DDPM


def theirs(
    x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, autocast: bool
) -> tuple[str, Step]:
    """Their name in the table, and one step."""
    network = UNet2DModel(**unet_config(DDPM(dropout=0.0)))
    x_t = NoiseSchedule.named("linear", 1000).add_noise(x0, eps, t)

    def predict() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return network(x_t, t - 1).sample

    name = f"diffusers, {'bf16 autocast' if autocast else 'fp32'}"
    return name, plain_step(predict, eps, list(network.parameters()))


def main() -> None:
    """Print and keep the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    n = arguments.batch_size

    torch.manual_seed(0)
    x0, eps, t = torch.rand(n, 3, 32, 32) * 2 - 1, torch.randn(n, 3, 32, 32), torch.arange(1, n + 1)
    ours = our_step(DDPM(dropout=0.0), x0, eps, t)
    steps = dict([ours, theirs(x0, eps, t, False), theirs(x0, eps, t, True)])
    measured = rates(steps, n, arguments.repeats)
    print(f"training step, 35.7 M parameters, 32x32, batch {n}; {machine()}")
    print_ratios(measured, "images/s")
    save("training_step", {"batch_size": n, "images_per_second": measured})


if __name__ == "__main__":
    main()
