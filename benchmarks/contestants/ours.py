"""The workload of each benchmark in fromnoise, with its defaults."""

import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from features import features, statistics_of_others
from torch import Tensor
from work import Work

from fromnoise.config.components import Component, check_component
from fromnoise.config.schema import Training
from fromnoise.data import open_images
from fromnoise.data.loader import load_batch, to_float
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.evaluation.metrics import (
    BLOCKS,
    frechet_distance,
    frechet_scores,
    merge_moments,
    moments_of,
)
from fromnoise.model.model import Model, build_denoiser, load
from fromnoise.model.precision import computes_in_bf16, in_bf16, without_tf32
from fromnoise.model.spec import ModelSpec
from fromnoise.networks import NETWORKS
from fromnoise.rng import BatchDraws
from fromnoise.training.precision import all_versions, choose_computation
from fromnoise.training.state import TrainingState
from fromnoise.training.step import Batch, keep_freed_memory, train_step

LONG = 100_000  # steps


def training_step(
    *, network: str, options: Mapping[str, Any], batch_size: int, side: int, device: str = "cpu",
    **chosen: Any,
) -> Work:  # fmt: skip
    """Return a full step of the training loop, with the `auto` of a long run.

    chosen: settings of `training`.
    """
    if device == "cpu":
        keep_freed_memory()
    denoiser, x0, eps, t, cond = _denoiser_and_batch(network, options, batch_size, side, device)
    denoiser.train()
    objective, settings = Objective(), Training(steps=LONG, batch_size=batch_size, **chosen)
    computation = choose_computation(settings, denoiser, LONG)
    state = TrainingState.start(denoiser, settings, computation)
    pixels = ((x0.cpu() + 1) * 127.5).round().to(torch.uint8)
    eps = eps.cpu()
    if device != "cpu":  # as `data/loader.py` does
        pixels, eps = pixels.pin_memory(), eps.pin_memory()
    keys = BatchDraws.of(0, 0, batch_size).keys("dropout")
    batch = Batch(pixels, eps, t, None if cond is None else cond.cpu(), dropout=keys)
    chosen = computation._asdict()
    chosen["compile"] = chosen.pop("compiled")

    def step() -> None:
        with without_tf32(benchmark=True), all_versions(computation):  # as `train` does
            train_step(state, objective, batch, settings)

    return Work(str(computation), batch_size, step, device, chosen)


def forward(
    *, network: str, options: Mapping[str, Any], batch_size: int, side: int, device: str = "cpu"
) -> Work:
    """Return the forward pass of a sampler, as `Model` computes it."""
    denoiser, x, _, t, cond = _denoiser_and_batch(network, options, batch_size, side, device)
    denoiser.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    half = computes_in_bf16(torch.device(device))
    asked = in_bf16(denoiser) if half else denoiser

    def once() -> None:
        with torch.inference_mode():
            asked(x, t, cond)

    return Work("bf16" if half else "fp32", batch_size, once, device)


def sampling(
    *, network: str, options: Mapping[str, Any], batch_size: int, side: int, images: int,
    sampler: str, steps: int, device: str = "cpu",
) -> Work:  # fmt: skip
    """Return sampling with `Model.sample`; the weights are untrained."""
    given = {
        "network": check_component(Component(name=network, **options), "network"),
        "diffusion": {},
        "sampling": {
            "sampler": check_component(Component(name=sampler), "sampling.sampler"),
            "steps": steps,
        },
        "channels": 3,
        "size": (side, side),
    }
    torch.manual_seed(0)
    spec = ModelSpec.model_validate(given)
    with tempfile.TemporaryDirectory() as scratch:
        untrained = Model(build_denoiser(spec), spec)
        model = load(untrained.save(Path(scratch) / "model.safetensors"), device=device)
    how = f"{model.auto_precision}, batches of {batch_size}"
    return Work(how, images, lambda: model.sample(range(images), batch_size=batch_size), device)


def data_feed(*, folder: str, cache: str, batch_size: int) -> Work:
    """Return an epoch of loading: the batches of all steps, mirrored at random, as floats."""
    data = open_images("folder", Path(folder), cache=cache, channels=3)
    steps = len(data) // batch_size
    epochs = count()

    def epoch() -> None:
        first = next(epochs) * steps
        for step in range(first, first + steps):
            batch = load_batch(data, BatchDraws.of(0, step, batch_size), flip=True)
            to_float(batch)

    return Work("mapped cache, no worker", steps * batch_size, epoch)


def frechet(*, count: int, width: int) -> Work:
    """Return the moments of features in blocks, as in `evaluate`, and the Fréchet distance."""
    made, (mean, covariance) = features(count, width), statistics_of_others(width)

    def once() -> float:
        found = merge_moments(*map(moments_of, np.array_split(made, BLOCKS)))
        return frechet_distance(found.mean, found.covariance, mean, covariance)

    return Work(f"{BLOCKS} blocks", count, once)


def frechet_intervals(*, count: int, width: int) -> Work:
    """Return the same with the limit for infinitely many features, and intervals."""
    made, (mean, covariance) = features(count, width), statistics_of_others(width)

    def once() -> float:
        blocks = [moments_of(block) for block in np.array_split(made, BLOCKS)]
        return frechet_scores(blocks, mean, covariance)[0].value

    return Work(f"{BLOCKS} blocks", count, once)


def _denoiser_and_batch(
    network: str, options: Mapping[str, Any], n: int, side: int, device: str
) -> tuple[Denoiser, Tensor, Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    built = NETWORKS[network](**options)
    denoiser = Denoiser(built, NoiseSchedule.named("linear", 1000)).to(device)
    x0 = torch.rand(n, built.image_channels, side, side, device=device) * 2 - 1
    cond = torch.zeros(n, built.cond_dim, device=device) if built.cond_dim else None
    return denoiser, x0, torch.randn_like(x0), torch.arange(1, n + 1), cond
