"""How a classifier is trained: from images with labels to `Classifier`, and to its folder."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.checkpoints import NotFinite, first_non_finite, require_empty_folder
from fromnoise.classifier.classifier import (
    Classifier,
    ClassifierSpec,
    Kind,
    build_network,
    save_classifier,
)
from fromnoise.classifier.data import Labelled, divide, kind_of, open_labelled
from fromnoise.classifier.label_scores import LabelPredictions, label_counts, scores
from fromnoise.config.errors import ConfigError
from fromnoise.data import ImageSet
from fromnoise.data.decoding.transforms import RGB, Fit
from fromnoise.data.loader import batch_indices, to_float
from fromnoise.model.model import select_device
from fromnoise.model.precision import computes_in_bf16
from fromnoise.progress import progress_bar
from fromnoise.rng import generator, seed_of

SMALL = 40  # pixels, up to which the stem is `small`
IMAGES_SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 200_000, 4, 40  # when nothing is said of epochs
SETTLED_BY, BATCH_OF_SETTLING = 2048, 256  # images
WARM_UP = 0.2  # of the steps
WEIGHT_DECAY = 0.01
logger = logging.getLogger("fromnoise")

Progress = Callable[[int, int], None]  # (done, of how many)


def train_classifier_to_folder(
    data: str | Path,
    out: str | Path,
    *,
    source: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    fit: Fit = "crop",
    background: RGB = (255, 255, 255),
    held_out: Path | None = None,
    epochs: float | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    strict: bool = False,
) -> Classifier:
    """Train a classifier on labelled images and write its folder, complete or not at all.

    out: a new folder. Others as in `open_labelled` and `train_classifier`; size: (H, W), by default the
    one that all images share.
    Raises ValueError, before anything is written, for anything that is wrong with these.
    """
    out = Path(out)
    require_empty_folder(out)
    images, test = open_labelled(
        data,
        source=source,
        held_out=held_out,
        size=size,
        channels=channels,
        fit=fit,
        background=background,
        strict=strict,
    )
    with progress_bar("training the classifier") as progress:
        classifier = train_classifier(
            images,
            held_out=test,
            fit=fit,
            background=background,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device,
            progress=progress,
        )
    logger.info("saved %s", save_classifier(classifier, out))
    return classifier


def train_classifier(
    data: ImageSet,
    *,
    held_out: ImageSet | None = None,
    fit: Fit = "crop",
    background: RGB = (255, 255, 255),
    epochs: float | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Classifier:
    """Train a classifier, score it on images that it never saw, and return it.

    Where each image has exactly one label the classifier tells classes apart (softmax and
    cross-entropy), else it says yes or no to each label (sigmoid and binary cross-entropy over the
    labels that are said). Images of which nothing is said are left out.

    Args:
        data: labelled images; labels +1 present, −1 absent, 0 not said.
        held_out: labelled images of the same size, channels and labels, only to be scored on; by
            default a tenth of `data`, at most 5,000 images, drawn by `seed`.
        fit, background: how the images came to their size; only noted.
        epochs: by default as many as come to 200,000 images, 4 at the least and 40 at most.
        batch_size: images of one step, at least 2.
        learning_rate: of AdamW at its highest; it rises linearly over a fifth of the steps and
            then falls to 0 as a cosine.
        seed: weights, order, shifts and the held-out part are functions of it.
        progress: called with (steps done, steps).

    Raises:
        ValueError: no labels, nothing to tell apart, sets that do not belong together.
        NotFinite: the loss is NaN or infinite.
    """
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"the learning rate must be more than 0, not {learning_rate:g}")
    if batch_size < 2:
        raise ConfigError(f"the batch size must be at least 2, not {batch_size}")
    if epochs is not None and not 0 < epochs < math.inf:
        raise ConfigError(f"epochs must be more than 0, not {epochs:g}")
    train, test = divide(data, held_out, seed=seed)
    epochs = epochs or min(max(IMAGES_SEEN / len(train), FEWEST_EPOCHS), MOST_EPOCHS)
    _, channels, height, width = data.images.shape
    spec = ClassifierSpec(
        kind=kind_of(train.labels, test.labels),
        label_names=data.label_names,
        channels=channels,
        size=(height, width),
        fit=fit,
        background=background,
        stem="small" if min(height, width) <= SMALL else "imagenet",
        source=data.source,
        fingerprint=data.fingerprint,
        num_images=len(train),
        epochs=epochs,
        steps=max(1, round(epochs * len(train) / batch_size)),
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    logger.info(
        "a classifier of %d %s: %d images to train on, %d held out, %.3g epochs",
        len(spec.label_names),
        spec.kind,
        len(train),
        len(test),
        epochs,
    )
    classifier = _fit(spec, train, select_device(device), progress)
    return _scored(classifier, test)


def classifier_loss(logits: Tensor, labels: Tensor, kind: Kind) -> Tensor:
    """What is minimised, a scalar: the mean over images, or over all labels that are said.

    logits: float (B,K). labels: (B,K) in {−1, 0, +1}; a 0 has no part in the loss or its gradient.
    """
    if kind == "classes":
        return F.cross_entropy(logits, labels.argmax(dim=1))
    each = F.binary_cross_entropy_with_logits(logits, (labels > 0).to(logits), reduction="none")
    said = labels != 0
    return (each * said).sum() / said.sum()


def shifted(images: Tensor, by: Tensor) -> Tensor:
    """Each image moved by its own whole pixels, (B, 2) down and right; the edge is repeated.

    Whatever the labels speak of is still there afterwards, unlike after a flip of digits or text.
    """
    count, _, height, width = images.shape
    down, right = by[:, :1], by[:, 1:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) - right).clamp(0, width - 1)  # (B, W)
    every = torch.arange(count)[:, None, None]
    return images[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B,C,H,W)


def _fit(
    spec: ClassifierSpec, data: Labelled, device: torch.device, progress: Progress | None
) -> Classifier:
    torch.manual_seed(seed_of(spec.seed, "classifier"))
    network = build_network(spec).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=spec.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    half = trains_in_bf16(device, spec.size)
    losses, started = [], time.perf_counter()
    for step in range(spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step)
        x, labels = _batch(spec, data, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = network(x.to(device))
        loss = classifier_loss(logits.float(), labels.to(device), spec.kind)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise NotFinite(
                f"step {step + 1} of {spec.steps}: the loss of the classifier is not finite, so none "
                f"was written; use a learning rate lower than {spec.learning_rate:g}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, spec.steps)
        epoch, before = ((step + i) * spec.batch_size // len(data) for i in (1, 0))
        if epoch > before or step + 1 == spec.steps:
            seconds = time.perf_counter() - started
            done = (step + 1) * spec.batch_size / len(data)
            logger.info(
                "epoch %.3g of %.3g: loss %.4f, %.0f s",
                done,
                spec.epochs,
                np.mean(losses),
                seconds,
            )
            losses, started = [], time.perf_counter()
    settle(network, data)
    if broken := first_non_finite(network.state_dict()):
        raise NotFinite(
            f"{broken} of the classifier is not finite after the last step, so none was written; "
            f"use a learning rate lower than {spec.learning_rate:g}"
        )
    return Classifier(network, spec)


def settle(network: nn.Module, data: Labelled) -> None:
    """Measure the mean and variance of each batch normalisation with the last weights.

    What training keeps is a moving average of the last some dozen steps, which lags behind where
    there are few steps: a classifier of small data then sees nothing at all.
    """
    normalisations = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for normalisation in normalisations:
        normalisation.reset_running_stats()
        normalisation.momentum = None  # the plain mean over all batches
    device = next(network.parameters()).device
    chosen = np.linspace(0, len(data) - 1, min(SETTLED_BY, len(data))).round().astype(np.int64)
    parts = max(1, len(chosen) // BATCH_OF_SETTLING)
    with torch.no_grad():
        for rows in np.array_split(data.rows[chosen], parts):
            network(to_float(torch.from_numpy(data.images[rows])).to(device))


def _batch(spec: ClassifierSpec, data: Labelled, step: int) -> tuple[Tensor, Tensor]:
    """Images in [−1, 1], shifted by at most a sixteenth of their size, and their labels (B,K)."""
    chosen = batch_indices(spec.seed, step, spec.batch_size, len(data))
    most = min(spec.size) // 16
    draws = generator(spec.seed, step, "shift")
    by = torch.randint(-most, most + 1, (spec.batch_size, 2), generator=draws)
    images = torch.from_numpy(data.images[data.rows[chosen]])
    return to_float(shifted(images, by)), torch.from_numpy(data.labels[chosen])


def learning_rate(spec: ClassifierSpec, step: int) -> float:
    """The learning rate of step `step`, counted from 0: up linearly, then down as a cosine."""
    warm_up = max(1, round(WARM_UP * spec.steps))
    if step < warm_up:
        return spec.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / (spec.steps - warm_up)
    return spec.learning_rate * (1 + math.cos(math.pi * done)) / 2


def trains_in_bf16(device: torch.device, size: tuple[int, int]) -> bool:
    """Whether the device computes in bf16, which is then about 1.6 times as fast.

    Asked and not timed, so that the same seed gives the same classifier. Never for images of at most 8
    pixels: their last maps are of one pixel, and there the CPU kernels leave garbage, NaN too, in
    the gradient of weights that only ever meet the padding (seen in torch 2.15).
    """
    return min(size) > 8 and computes_in_bf16(device)


def _scored(classifier: Classifier, test: Labelled) -> Classifier:
    """The classifier with what it reaches on the held-out images in its specification."""
    # a thousand at a time, as the images are mapped from disk and may not fit into memory
    parts = np.array_split(test.rows, -(-len(test) // 1024))
    classified = zip(*(classifier.predictions(test.images[rows]) for rows in parts), strict=True)
    predictions = LabelPredictions(*map(np.concatenate, classified))
    reached = scores(label_counts(predictions, test.labels))
    if classifier.spec.kind == "classes":
        reached = {"accuracy": reached["exact_match"]}
    else:
        chosen = ("f1", "precision", "recall", "exact_match", "recall_at_k")
        reached = {name: reached[name] for name in chosen}
    per_label = {}
    for k, name in enumerate(classifier.spec.label_names):
        one = LabelPredictions(*(part[:, [k]] for part in predictions))
        per_label[name] = scores(label_counts(one, test.labels[:, [k]]))["f1"]
    found = {
        "held_out": {name: _or_none(value) for name, value in reached.items()},
        "held_out_f1": {name: _or_none(value) for name, value in per_label.items()},
        "num_held_out": len(test),
    }
    said = ", ".join(f"{name} {value:.4f}" for name, value in reached.items())
    logger.info("on the %d held-out images: %s", len(test), said)
    return Classifier(classifier.network, classifier.spec.model_copy(update=found))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
