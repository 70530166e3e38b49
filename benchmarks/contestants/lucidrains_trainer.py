"""denoising_diffusion_pytorch in the contest of time to quality: its own `Trainer`.

`Unet`, `GaussianDiffusion` and `Trainer` have their own defaults (v under a sigmoid schedule,
batches of 16 in float32, Adam at 1e-4, an average of 0.995 at every tenth step) but for these, all
in its favour: no pictures and no scores on the way, which would take it many minutes, and no flips,
as there are none in the images that it is held against. It can be helped: by another batch size
and bf16, which its `amp` means.
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock, ending
from padding import SIDE, unpadded
from shards import draw_shards
from width import width_nearest

BATCH_SIZE = 16
MANY = 1_000_000  # steps; the learning rate is constant, so time alone ends the training
SAVED = "end"


def width_for(channels: int, parameters: int) -> int:
    """An even one, or its embedding of the time does not fit."""
    return width_nearest(lambda width: build(channels, width), parameters, multiple=2)


def build(channels: int, width: int, steps: int | None = None) -> Any:
    """Their diffusion of a `Unet`. steps: of DDIM; None for what they train with."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    unet = Unet(width, channels=channels)
    return GaussianDiffusion(unet, image_size=SIDE, sampling_timesteps=steps)


def train(
    *,
    folder: str,
    pictures: str,
    channels: int,
    parameters: int,
    steps: int | None,
    seconds: float,
    batch_size: int = BATCH_SIZE,
    bf16: bool = False,
) -> dict[str, Any]:
    """Train until the time is over, and save what their Trainer saves.

    pictures: a folder of files of SIDE x SIDE, which their worker processes read at every step.
    parameters: about as many as the network is to have.
    """
    from denoising_diffusion_pytorch import Trainer

    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(0)
    width = width_for(channels, parameters)
    trainer = Trainer(
        build(channels, width),
        pictures,
        train_batch_size=batch_size,
        amp=bf16,
        mixed_precision_type="bf16",
        train_num_steps=steps or MANY,
        save_and_sample_every=2 * MANY,
        calculate_fid=False,
        augment_horizontal_flip=False,
        results_folder=folder,
    )

    def end() -> None:
        trainer.train_num_steps = 0  # it looks at this before each step

    clock = Clock()
    with ending(clock, seconds, end):
        trainer.train()
        trainer.save(SAVED)
    return {
        "how": f"denoising-diffusion-pytorch {version('denoising-diffusion-pytorch')}, "
        f"torch {torch.__version__}, batch {batch_size}, {'bf16' if bf16 else 'fp32'}, "
        f"{SIDE}x{SIDE}, width {width}",
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "batch_size": batch_size,
        "steps": trainer.step,
        "seconds": clock.seconds(),
    }


def draw(
    *,
    folder: str,
    trained: str,
    channels: int,
    parameters: int,
    count: int,
    steps: int,
    batch_size: int,
    size: tuple[int, int],
    bf16: bool = False,
) -> dict[str, Any]:
    """DDIM from the averaged weights, as `GaussianDiffusion.sample` does it; the middle of it.

    parameters: as in the training.
    """
    from accelerate import Accelerator

    saved = torch.load(Path(trained) / f"model-{SAVED}.pt", map_location="cpu", weights_only=True)
    averaged = {
        name.removeprefix("ema_model."): tensor
        for name, tensor in saved["ema"].items()
        if name.startswith("ema_model.")
    }
    diffusion = build(channels, width_for(channels, parameters), steps)
    diffusion.load_state_dict(averaged)
    device = Accelerator().device
    diffusion.eval().to(device)

    def images(first: int, n: int) -> np.ndarray:
        torch.manual_seed(first)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            made = diffusion.sample(batch_size=n).mul(255).round().to(torch.uint8)
        return unpadded(made.cpu().numpy(), size)

    drawn = draw_shards(images, Path(folder), count, batch_size=batch_size)
    return {**drawn, "sampler": "ddim"}
