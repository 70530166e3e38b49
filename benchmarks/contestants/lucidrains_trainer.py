"""Train and sample with the `Trainer` of denoising_diffusion_pytorch, for time_to_quality.py.

`Unet`, `GaussianDiffusion` and `Trainer` have their defaults: prediction of v with a sigmoid
schedule, batches of 16 in float32, Adam at 1e-4, an EMA of 0.995 every tenth step. The exceptions
are in its favour: no previews and no scores during training, which would take many minutes, and no
flips, since the reference images are not mirrored. The helped options are another batch size, and
bf16 (its `amp`).
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
MANY = 1_000_000  # steps; the learning rate is constant, so only the time ends the training
SAVED = "end"


def width_for(channels: int, parameters: int) -> int:
    """Return the width for a number of parameters; the time embedding needs an even one."""
    return width_nearest(lambda width: build(channels, width), parameters, multiple=2)


def build(channels: int, width: int, steps: int | None = None) -> Any:
    """Return a `GaussianDiffusion` of a `Unet`. steps: of DDIM; None for training."""
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
    """Train until the time is over, and save the checkpoint of the `Trainer`.

    pictures: a folder of images of SIDE × SIDE, which its worker processes read at every step.
    parameters: the approximate number of parameters.
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
        trainer.train_num_steps = 0  # the trainer reads this before each step

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
    """Sample with the EMA by DDIM (`GaussianDiffusion.sample`), and cut out the centres.

    parameters: as in training.
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
