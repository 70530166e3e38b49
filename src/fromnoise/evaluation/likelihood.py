"""Measure bits per dimension of a model: the variational bound, its parts, its curve over t.

`diffusion.likelihood` has the mathematics; this module adds images, seeds and intervals.

likelihood-…/metrics.json    the bound with its parts, its interval and its curve
             metrics.md      the same as a table
             bits.png        the curve over t
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.curves import bits_axes, save_png
from fromnoise.data.loader import to_float
from fromnoise.diffusion.likelihood import BitsPerDimension, estimated_bits_per_dimension
from fromnoise.diffusion.samplers import Variance
from fromnoise.evaluation.features import Progress, check_installed, no_progress
from fromnoise.evaluation.images import evenly_spaced, has_labels, run_images_of
from fromnoise.evaluation.intervals import Interval, mean_interval
from fromnoise.evaluation.records import (
    NotDefined,
    new_record,
    plain,
    require_no_scores,
    table,
    write_record,
)
from fromnoise.model.model import Model, load
from fromnoise.model.precision import without_tf32
from fromnoise.model.spec import Weights, run_folder_of
from fromnoise.progress import progress_bar
from fromnoise.rng import generator, image_noise, seed_of

EVALUATIONS = 50  # of the network per image, by default
CURVE, MAX_IMAGES = "bits.png", 1000
LIBRARIES = ("fromnoise", "torch", "numpy")


class Stretch(NamedTuple):
    """The mean L_{t−1} of a step in t = first..last, in bits per dimension; L_0 for t = 1."""

    first: int
    last: int
    per_step: float
    low: float
    high: float


class Bits(NamedTuple):
    """The bound on −log2 p(x_0) of images, in bits per dimension, with 95 % intervals.

    Intervals are over other images of the same distribution and other noise; the model is fixed.
    """

    data: str  # a description of the images
    num_images: int
    levels: int  # of the 256 grey levels, those that occur
    labels: bool  # whether the model had their labels
    evaluations: int  # of the network per image; T: every t, without random t
    T: int
    variance: Variance  # of the model's steps
    seed: int
    total: Interval  # = L_T + middle + L_0
    L_T: Interval
    middle: Interval  # Σ L_{t−1}, t = 2..T
    L_0: Interval
    curve: list[Stretch]

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON; intervals as value, low and high."""
        return {"unit": "bits per dimension, an upper bound", **plain(self)}

    def save_curve(self, path: Path) -> Path:
        """Write the curve as a PNG."""
        value, low, high = self.total
        title = (
            f"Bits per dimension of {self.data}\n{value:.3f} [{low:.3f}, {high:.3f}] = "
            f"{self.L_T.value:.2g} ($L_T$) + {self.middle.value:.3f} ($\\sum L_{{t-1}}$) + "
            f"{self.L_0.value:.3f} ($L_0$)"
        )
        label = "bits per dimension in one step"
        return save_png(bits_axes(self.curve), path, title=title, y_label=label)


@without_tf32()
def measure_bits(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    data: str,
    evaluations: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = no_progress,
) -> Bits:
    """Return the bits per dimension of images under the model, and their parts.

    An upper bound on −log2 p_θ(x_0) / (C·H·W) (Ho et al. 2020, Eqs. 5 and 13), x̂_0 clamped to
    [−1, 1], estimated without bias (`estimated_bits_per_dimension`). The bits of training images
    are too low for other images.

    Args:
        images: uint8 (N, C, H, W) of the model's size, N ≥ 2.
        labels: int8 (N, K): +1, −1, 0; None for the unconditional case. Guidance is off.
        data: a description of the images for the record: "the 297 held-out digits".
        evaluations: of the network per image, 2..T; default 50, or T if that is less. With T every
            t is used, and only the noise is random.
        seed: timesteps and noise of image i depend on seed, i and t alone, not on the batch.
    Raises ValueError: a model of offset noise or of another range than [−1, 1], images or labels
    that do not fit the model, fewer than 2 images, or evaluations outside 2..T.
    """
    _check(model, images, labels)
    T, like = model.denoiser.schedule.T, next(model.denoiser.parameters())
    evaluations = min(EVALUATIONS, T) if evaluations is None else evaluations
    variance = variance_of(model)

    def estimate(rows: range) -> BitsPerDimension:
        seeds = [seed_of(seed, i, "bits") for i in rows]
        draws = [torch.rand(evaluations, generator=generator(seed, i, "bits, t")) for i in rows]

        def noise(t: Tensor) -> Tensor:
            each = zip(seeds, t.tolist(), strict=True)
            drawn = [image_noise([s], t_i, images.shape[1:]) for s, t_i in each]
            return torch.cat(drawn).to(like.device)

        return estimated_bits_per_dimension(
            model.denoiser,
            to_float(torch.tensor(images[rows]).to(like.device)),  # a copy: it may be read-only
            None if labels is None else torch.tensor(labels[rows]).to(like),
            uniform=torch.stack(draws),
            noise=noise,
            variance=variance,
        )

    parts = []
    for i in range(0, len(images), batch_size):
        parts.append(estimate(range(i, min(i + batch_size, len(images)))))
        progress(min(i + batch_size, len(images)), len(images))
    totals, priors, sums = (
        torch.cat([part[k] for part in parts]).double().cpu().numpy() for k in range(3)
    )  # (N,), (N,), (N,K)
    return Bits(
        data=data,
        num_images=len(images),
        levels=len(np.unique(images)),
        labels=labels is not None,
        evaluations=evaluations,
        T=T,
        variance=variance,
        seed=seed,
        total=mean_interval(totals),
        L_T=mean_interval(priors),
        middle=mean_interval(sums[:, 1:].sum(axis=1)),
        L_0=mean_interval(sums[:, 0]),
        curve=[
            Stretch(times[0], times[-1], *mean_interval(sums[:, k] / len(times)))
            for k, times in enumerate(parts[0].strata)
        ],
    )


def variance_of(model: Model) -> Variance:
    """Return the variance of the model's steps: `learned` if it learned one, else that of `ddpm`.

    A model with another sampler has `small`, whose bound is the error of x̂_0 alone.
    """
    if model.spec.network.options.get("learned_variance"):
        return "learned"
    sampler = model.spec.sampling.sampler
    return sampler.options.get("variance", "small") if sampler.name == "ddpm" else "small"


def _check(model: Model, images: np.ndarray, labels: np.ndarray | None) -> None:
    if offset := model.spec.diffusion.offset_noise:
        raise ValueError(
            f"this model was trained with diffusion.offset_noise = {offset:g}, but the bound "
            "assumes standard normal noise. Use a model without it."
        )
    low, high = model.spec.data_range
    if (low, high) != (-1, 1):
        raise ValueError(
            f"this model's images lie in {low:g}..{high:g}, but bits per dimension count 256 "
            "levels in -1..1. Use a model of that range."
        )
    if images.dtype != np.uint8 or images.shape[1:] != model.image_shape:
        raise ValueError(
            f"the images are {images.dtype} {images.shape}. Give uint8 (N, C, H, W) of the model's "
            f"{model.image_shape}."
        )
    if len(images) < 2:
        raise ValueError(f"{len(images)} images give no interval. Give at least 2 images.")
    names = model.spec.label_names
    if labels is not None and not names:
        raise ValueError("this model is unconditional. Remove labels.")
    if labels is not None and labels.shape != (len(images), len(names)):
        raise ValueError(f"labels have shape {labels.shape}. Give ({len(images)}, {len(names)}).")


def evaluate_likelihood(
    path: Path, *, weights: Weights | None = None, out: Path | None = None, device: str = "auto"
) -> tuple[str, Path]:
    """Measure bits per dimension of a run's held-out images, or else of its training images.

    path: a run or a checkpoint in it. Returns the table and the folder of metrics.json, metrics.md
    and bits.png. No image is sampled and no feature extracted.
    Raises ConfigError if the folder has scores, NotDefined without images, and the errors of
    `measure_bits`.
    """
    check_installed()
    model = load(path, weights=weights, device=device)
    name = f"likelihood-{model.spec.step:06d}-{model.spec.weights_name}"
    folder = out or run_folder_of(path) / "evaluation" / name
    require_no_scores(folder)
    run_images = run_images_of(run_folder_of(path))
    real = run_images.held_out or run_images.training
    if real is None:
        raise NotDefined(f"bits per dimension need real images, and {run_images.reason}")
    started = time.perf_counter()
    labels = real.images.labels if has_labels(model, real) else None
    with progress_bar("images") as progress:
        bits = measure_bits(
            model,
            images := evenly_spaced(real.images.images, MAX_IMAGES),
            None if labels is None else evenly_spaced(labels, MAX_IMAGES),
            data=f"{len(images):,} images of {real.what}",
            progress=progress,
        )
    bits.save_curve(folder / CURVE)
    record = new_record(LIBRARIES) | {
        "complete": True,
        "generated": {
            "what": "none",
            "loaded from": str(path.absolute()),
            **model.spec.weights_info(),
        },
        "seconds": {"bits": time.perf_counter() - started},
        "bits": {**bits.as_json(), "picture": CURVE},
    }
    write_record(folder, record)
    return table(record), folder
