"""Train and sample as the unconditional example of diffusers, for time_to_quality.py.

The example is examples/unconditional_image_generation/train_unconditional.py with `--use_ema`, as
in its README: batches of 16 in float32, prediction of ε with a linear schedule of 1,000 steps,
AdamW, a cosine learning rate after 500 steps of warm-up, clipping at 1, and an EMA. The network has
the six levels of the example, with attention at the fifth. It has fewer channels, so GroupNorm has
8 groups instead of 32. The helped options are another batch size, bf16 and a second-order solver.

In its favour there are no checkpoints, no previews and no decoding: the images are in memory.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock, ending
from padding import SIDE, padded, unpadded
from shards import draw_shards
from torch import nn
from width import width_nearest

BATCH_SIZE, GROUPS = 16, 8
WARMUP = 500
MANY = 1_000_000  # steps, if only the time ends the training


def width_for(channels: int, parameters: int) -> int:
    """Return the width for a number of parameters, as a multiple of the groups."""
    return width_nearest(lambda width: build(channels, width), parameters, multiple=GROUPS)


def build(channels: int, width: int) -> Any:
    """Return the UNet2DModel of the example, whose `width` is 128."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    down, up = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
    down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=tuple(width * times for times in (1, 1, 2, 2, 4, 4)),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        norm_num_groups=GROUPS,
    )


def train(
    *,
    folder: str,
    images: str,
    parameters: int,
    steps: int | None,
    seconds: float,
    batch_size: int = BATCH_SIZE,
    bf16: bool = False,
) -> dict[str, Any]:
    """Train for the steps or until the time is over, and save the network with its EMA.

    parameters: the approximate number of parameters.
    """
    import diffusers
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.training_utils import EMAModel

    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    x0 = torch.from_numpy(padded(np.load(images))).float() / 127.5 - 1
    channels = x0.shape[1]
    width = width_for(channels, parameters)
    network, steps = build(channels, width), steps or MANY
    average = EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    schedule = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=WARMUP, num_training_steps=steps)
    data = torch.utils.data.TensorDataset(x0)
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True)
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    network, optimizer, loader, rate = accelerator.prepare(network, optimizer, loader, rate)
    average.to(accelerator.device)

    done, over = 0, False

    def end() -> None:
        nonlocal over
        over = True

    network.train()
    clock = Clock()
    with ending(clock, seconds, end):
        while done < steps and not over:
            for (clean,) in loader:
                noise = torch.randn_like(clean)
                t = torch.randint(0, 1000, (len(clean),), device=clean.device)
                predicted = network(schedule.add_noise(clean, noise, t), t).sample
                accelerator.backward(nn.functional.mse_loss(predicted, noise))
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
                average.step(network.parameters())
                done += 1
                if done >= steps or over:
                    break
        average.copy_to(network.parameters())
        accelerator.unwrap_model(network).save_pretrained(folder)
    return {
        "how": f"diffusers {diffusers.__version__}, torch {torch.__version__}, "
        f"batch {batch_size}, {'bf16' if bf16 else 'fp32'}, {SIDE}x{SIDE}, width {width}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch_size": batch_size,
        "steps": done,
        "seconds": clock.seconds(),
    }


def draw(
    *,
    folder: str,
    trained: str,
    count: int,
    steps: int,
    batch_size: int,
    size: tuple[int, int],
    solver: bool = False,
    bf16: bool = False,
) -> dict[str, Any]:
    """Sample with the default `DDIMPipeline`, and cut out the centres of the images.

    solver: sample with `solved` instead. bf16 has an effect only with it.
    """
    from accelerate import Accelerator
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    network = UNet2DModel.from_pretrained(trained, use_safetensors=True).eval()
    schedule = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    pipeline = DDIMPipeline(network, schedule).to(Accelerator().device)
    pipeline.set_progress_bar_config(disable=True)
    if solver and bf16:
        network.to(torch.bfloat16)

    def images(first: int, n: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(first)
        if solver:
            made = solved(network, n, steps, generator)
        else:
            made = pipeline(
                batch_size=n, generator=generator, num_inference_steps=steps, output_type="np"
            ).images.transpose(0, 3, 1, 2)
        return unpadded((made * 255).round().astype(np.uint8), size)

    drawn = draw_shards(images, Path(folder), count, batch_size=batch_size)
    return {**drawn, "sampler": "dpm++" if solver else "ddim"}


@torch.inference_mode()
def solved(network: Any, n: int, steps: int, generator: torch.Generator) -> np.ndarray:
    """Sample n images in [0, 1] with DPM-Solver++, x̂_0 clipped to [−1, 1] as in the pipeline.

    The loop is written here, because `DDIMPipeline` converts every scheduler to DDIM. x stays in
    float32.
    """
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(1000, beta_schedule="linear", thresholding=True)
    scheduler.set_timesteps(steps)
    x = torch.randn(n, network.config.in_channels, SIDE, SIDE, generator=generator)
    x = x.to(network.device)
    for t in scheduler.timesteps:
        predicted = network(x.to(network.dtype), t).sample.float()
        x = scheduler.step(predicted, t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1).cpu().numpy()
