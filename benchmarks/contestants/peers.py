"""The workload of each benchmark in the other libraries. Needs only requirements.txt."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from features import features, statistics_of_others
from torch import Tensor, nn
from work import Work

Predict = Callable[[Tensor, Tensor], Tensor]


def diffusers_training_step(
    *, config: Mapping[str, Any], batch_size: int, side: int, bf16: bool, channels_last: bool,
    device: str = "cpu",
) -> Work:  # fmt: skip
    """Return a step of the unconditional example: forward, MSE, backward, clipping, AdamW."""
    network, how = _unet(config, channels_last, device)
    x, eps, t = _batch(network.config.in_channels, batch_size, side, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    return _training(lambda x, t: network(x, t).sample, network, optimizer, x, eps, t, bf16, how)


def diffusers_forward(
    *, config: Mapping[str, Any], batch_size: int, side: int, bf16: bool, channels_last: bool,
    device: str = "cpu",
) -> Work:  # fmt: skip
    """Return a forward pass of `UNet2DModel`; for bf16, its weights are bf16 (`torch_dtype`)."""
    network, how = _unet(config, channels_last, device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    network.eval().to(dtype)
    x, _, t = _batch(network.config.in_channels, batch_size, side, device)
    x = x.to(dtype)

    def forward() -> None:
        with torch.inference_mode():
            network(x, t)

    return Work(f"{'bf16' if bf16 else 'fp32'}, {how}", batch_size, forward, device)


def diffusers_sampling(
    *, config: Mapping[str, Any], batch_size: int, side: int, images: int, steps: int, bf16: bool,
    channels_last: bool, device: str = "cpu",
) -> Work:  # fmt: skip
    """Return the loop of `DDIMPipeline`, without its PIL or NumPy images: bf16 lacks these."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    network, how = _unet(config, channels_last, device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    network.eval().to(dtype)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    channels = network.config.in_channels

    def draw(n: int) -> Tensor:
        x = torch.randn(n, channels, side, side, device=device, dtype=dtype)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
        return x

    how = f"{'bf16' if bf16 else 'fp32'}, {how}, batches of {batch_size}"
    return Work(how, images, lambda: _sampling(draw, images, batch_size), device)


def lucidrains_training_step(
    *, options: Mapping[str, Any], batch_size: int, side: int, bf16: bool = False,
    device: str = "cpu",
) -> Work:  # fmt: skip
    """Return a step of `Unet` with the loss, clipping and Adam of the `Trainer`."""
    network, channels = _lucidrains(options, device)
    x, eps, t = _batch(channels, batch_size, side, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    return _training(network, network, optimizer, x, eps, t, bf16, "channels first")


def lucidrains_forward(
    *, options: Mapping[str, Any], batch_size: int, side: int, bf16: bool = False,
    device: str = "cpu",
) -> Work:  # fmt: skip
    """Return a forward pass of `Unet`; bf16 is autocast, as in the loss of the `Trainer`."""
    network, channels = _lucidrains(options, device)
    network.eval()
    x, _, t = _batch(channels, batch_size, side, device)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            network(x, t)

    how = f"{'bf16 autocast' if bf16 else 'fp32'}, channels first"
    return Work(how, batch_size, forward, device)


def lucidrains_sampling(
    *, options: Mapping[str, Any], batch_size: int, side: int, images: int, steps: int,
    bf16: bool = False, device: str = "cpu",
) -> Work:  # fmt: skip
    """Return `GaussianDiffusion.sample`, which is DDIM for fewer steps than T."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    network, _ = _lucidrains(options, device)
    diffusion = GaussianDiffusion(network, image_size=side, sampling_timesteps=steps)
    diffusion.eval().to(device)

    def draw(n: int) -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            return diffusion.sample(batch_size=n) * 2 - 1

    how = f"{'bf16 autocast' if bf16 else 'fp32'}, channels first, batches of {batch_size}"
    return Work(how, images, lambda: _sampling(draw, images, batch_size), device)


def torchvision_feed(*, folder: str, side: int, batch_size: int, images: int, workers: int) -> Work:
    """Return a pass of `ImageFolder` and `DataLoader` over `images` images, drawn each round."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    dataset = datasets.ImageFolder(folder, transform)
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=RandomSampler(dataset, num_samples=images),
        num_workers=workers,
        persistent_workers=True,
    )

    def feed() -> None:
        for _ in loader:
            pass

    return Work(f"PNG files, {workers} workers", images, feed)


def fidelity_frechet(*, count: int, width: int) -> Work:
    """Return the functions of torch-fidelity, applied to all features at once."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    made, (mean, covariance) = features(count, width), statistics_of_others(width)
    of_other = {"mu": mean.astype(np.float32), "sigma": covariance}  # its own types

    def once() -> float:
        found = fid_features_to_statistics(torch.from_numpy(made))
        told = fid_statistics_to_metric(found, of_other, verbose=False)
        return told["frechet_inception_distance"]

    return Work("all at once", count, once)


def _unet(config: Mapping[str, Any], channels_last: bool, device: str) -> tuple[Any, str]:
    from diffusers.models.unets.unet_2d import UNet2DModel

    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = UNet2DModel(**config).to(device).to(memory_format=layout)
    return network, "channels last" if channels_last else "channels first"


def _lucidrains(options: Mapping[str, Any], device: str) -> tuple[nn.Module, int]:
    from denoising_diffusion_pytorch import Unet

    network = Unet(**options).to(device)
    return network, options.get("channels", 3)


def _batch(channels: int, n: int, side: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(n, channels, side, side, device=device)
    return x, torch.randn_like(x), torch.arange(n, device=device)


def _sampling(draw: Callable[[int], Tensor], images: int, batch_size: int) -> Tensor:
    """Return images uint8 on the CPU, sampled in batches in [−1, 1]."""
    with torch.inference_mode():
        batches = [draw(min(batch_size, images - i)) for i in range(0, images, batch_size)]
        return torch.cat([_to_uint8(x) for x in batches])


def _to_uint8(x: Tensor) -> Tensor:
    return (x.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8).cpu()


def _training(
    predict: Predict,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    eps: Tensor,
    t: Tensor,
    bf16: bool,
    how: str,
) -> Work:
    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            loss = nn.functional.mse_loss(predict(x, t).float(), eps)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Work(f"{'bf16 autocast' if bf16 else 'fp32'}, {how}", len(x), step, str(x.device))
