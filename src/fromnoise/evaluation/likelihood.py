"""Measure bits per dimension of a model: the variational bound, its parts, its curve over t.

`diffusion.likelihood` has the mathematics; this module adds images, seeds and intervals.

likelihood-…/metrics.json    the bound with its parts, its interval and its curve
             metrics.md      the same as a table
             bits.png        the curve over t
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.curves import bits_axes, save_png
from fromnoise.data.loader import to_float
from fromnoise.diffusion.likelihood import bits_per_dimension
from fromnoise.diffusion.samplers import Variance
from fromnoise.evaluation import records
from fromnoise.evaluation.copies import evenly_spaced
from fromnoise.evaluation.features import check_installed
from fromnoise.evaluation.images import has_labels, run_images_of
from fromnoise.evaluation.intervals import mean_interval
from fromnoise.model.model import Model, load
from fromnoise.model.precision import without_tf32
from fromnoise.model.spec import Weights, run_folder_of
from fromnoise.progress import Progress, no_progress, progress_bar
from fromnoise.rng import generator, image_noise, seed_of

EVALUATIONS = 50  # of the network per image, by default
CURVE, MAX_IMAGES = "bits.png", 1000


def save_curve(bits: records.Bits, path: Path) -> Path:
    """Write the curve as a PNG."""
    value, low, high = bits.total
    title = (
        f"Bits per dimension of {bits.data}\n{value:.3f} [{low:.3f}, {high:.3f}] = "
        f"{bits.L_T.value:.2g} ($L_T$) + {bits.middle.value:.3f} ($\\sum L_{{t-1}}$) + "
        f"{bits.L_0.value:.3f} ($L_0$)"
    )
    curve = bits_axes([tuple(dict(of).values()) for of in bits.curve])
    return save_png(curve, path, title=title, y_label="bits per dimension in one step")


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
) -> records.Bits:
    """Return the bits per dimension of images under the model, and their parts.

    An upper bound on −log2 p_θ(x_0) / (C·H·W) (Ho et al. 2020, Eqs. 5 and 13), x̂_0 clamped to
    [−1, 1], estimated without bias (`bits_per_dimension`). The bits of training images
    are too low for other images.

    images: uint8 (N, C, H, W) of the model's size, N ≥ 2. labels: int8 (N, K): +1, −1, 0; None for
    the unconditional case. Guidance is off. data: a description of the images for the record: "the
    297 held-out digits". evaluations: of the network per image, 2..T; default 50, or T if that is
    less. With T every t is used, and only the noise is random. seed: timesteps and noise of image i
    depend on seed, i and t alone, not on the batch.
    Raises ValueError: a model of offset noise or of another range than [−1, 1], images or labels
    that do not fit the model, fewer than 2 images, or evaluations outside 2..T.
    """
    _check(model, images, labels)
    T, like = model.denoiser.schedule.T, next(model.denoiser.parameters())
    evaluations = min(EVALUATIONS, T) if evaluations is None else evaluations
    variance = variance_of(model)

    parts = []
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        seeds = [seed_of(seed, i, "bits") for i in rows]
        draws = [torch.rand(evaluations, generator=generator(seed, i, "bits, t")) for i in rows]

        def noise(t: Tensor, seeds: list[int] = seeds) -> Tensor:
            each = zip(seeds, t.tolist(), strict=True)
            drawn = [image_noise([s], t_i, images.shape[1:]) for s, t_i in each]
            return torch.cat(drawn).to(like.device)

        part = bits_per_dimension(
            model.denoiser,
            to_float(torch.tensor(images[rows]).to(like.device)),  # a copy: it may be read-only
            None if labels is None else model.condition(torch.tensor(labels[rows])),
            uniform=torch.stack(draws),
            noise=noise,
            variance=variance,
        )
        parts.append(part)
        progress(rows.stop, len(images))
    totals, priors, sums = (
        torch.cat([part[k] for part in parts]).double().cpu().numpy() for k in range(3)
    )  # (N,), (N,), (N,K)
    return records.Bits(
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
            records.Stretch(first=times[0], last=times[-1], per_step=value, low=low, high=high)
            for k, times in enumerate(parts[0].strata)
            for value, low, high in [mean_interval(sums[:, k] / len(times))]
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
    offset, (low, high) = model.spec.diffusion.offset_noise, model.spec.data_range
    expected = (len(images), len(model.spec.label_names))
    shape = () if labels is None else labels.shape
    problems = {
        f"this model was trained with diffusion.offset_noise = {offset:g}, but the bound assumes "
        "standard normal noise. Use a model without it.": offset,
        f"this model's images lie in {low:g}..{high:g}, but bits per dimension count 256 levels in "
        "-1..1. Use a model of that range.": (low, high) != (-1, 1),
        f"the images are {images.dtype} {images.shape}. Give uint8 (N, C, H, W) of the model's "
        f"{model.image_shape}.": images.dtype != np.uint8 or images.shape[1:] != model.image_shape,
        f"{len(images)} images give no interval. Give at least 2 images.": len(images) < 2,
        "this model is unconditional. Remove labels.": shape and not expected[1],
        f"labels have shape {shape}. Give {expected}.": shape and shape != expected,
    }
    if found := [problem for problem, wrong in problems.items() if wrong]:
        raise ValueError(found[0])


def evaluate_likelihood(
    path: Path, *, weights: Weights | None = None, out: Path | None = None, device: str = "auto"
) -> tuple[str, Path]:
    """Measure bits per dimension of a run's held-out images, or else of its training images.

    path: a run or a checkpoint in it. Returns the table and the folder of metrics.json, metrics.md
    and bits.png. No image is sampled and no feature extracted.
    Raises ConfigError if the folder has scores or there are no images, and the errors of
    `measure_bits`.
    """
    check_installed()
    model = load(path, weights=weights, device=device)
    name = f"likelihood-{model.spec.step:06d}-{model.spec.weights_name}"
    folder = out or run_folder_of(path) / "evaluation" / name
    records.require_no_scores(folder / records.METRICS_FILE)
    run_images = run_images_of(run_folder_of(path))
    real = run_images.held_out or run_images.training
    if real is None:
        raise ConfigError(f"bits per dimension need real images, and {run_images.reason}")
    started = time.perf_counter()
    labels = real.images.labels if has_labels(model, real) else None
    rows = evenly_spaced(len(real.images), MAX_IMAGES)
    with progress_bar("images") as progress:
        bits = measure_bits(
            model,
            real.images.images[rows],
            None if labels is None else labels[rows],
            data=f"{len(rows):,} images of {real.what}",
            progress=progress,
        )
    save_curve(bits, folder / CURVE)
    record = records.Metrics(
        date=records.now(),
        versions=records.versions("fromnoise", "torch", "numpy"),
        generated={
            "what": "none",
            "loaded from": str(path.absolute()),
            **model.spec.weights_info(),
        },
        seconds={"bits": time.perf_counter() - started},
        bits=bits.model_copy(update={"picture": CURVE}),
    )
    return record.write(folder), folder
