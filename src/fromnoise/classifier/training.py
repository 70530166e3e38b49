"""Train a classifier on labelled images, score it on held-out images, and write its folder."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from fromnoise.checkpoints import NotFinite, first_non_finite, require_empty_folder
from fromnoise.classifier import label_scores
from fromnoise.classifier.classifier import Classifier, ClassifierSpec, Kind, build_network
from fromnoise.classifier.settings import ClassifierSettings
from fromnoise.data import DOWNLOADABLE, DataError, ImageSet, detect_source
from fromnoise.data.dataset import open_with_log
from fromnoise.data.errors import NoSplit
from fromnoise.data.loader import image_indices, to_float
from fromnoise.data.text import plain
from fromnoise.model.model import select_device
from fromnoise.model.precision import computes_in_bf16, without_tf32
from fromnoise.progress import Progress, no_progress, progress_bar
from fromnoise.rng import BatchDraws, generator, seed_of
from fromnoise.training.precision import Precision, autocast
from fromnoise.training.state import build_optimizer, learning_rate
from fromnoise.training.step import apply_gradients

SMALL_SIZE = 40  # pixels; the stem is `small` up to this size
BATCH_NORM_IMAGES, BATCH_NORM_BATCH = 2048, 256
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 5000  # of the images, unless a held-out set is given
NEEDED = 48 * 2**20  # bytes of a ResNet-18 in float32
MIN_IMAGES = 3  # one held out, two to train on
DEFAULT = ClassifierSettings()
logger = logging.getLogger("fromnoise")


def train_classifier_to_folder(
    data: str | Path,
    out: str | Path,
    *,
    settings: ClassifierSettings = DEFAULT,
    held_out: Path | None = None,
    device: str = "auto",
) -> Classifier:
    """Train a classifier on labelled images and write its folder, complete or not at all.

    data: a folder, file or archive, or the name of a source without a path, such as `digits` (write
    `./digits` for a folder of that name). out: a new folder. held_out: a path; by default the test
    part of the source, if it has one. The held-out images get the size and channels of the others.
    Raises ValueError, before anything is written, for inputs that cannot be used.
    """
    require_empty_folder(Path(out), needed=NEEDED)
    path = None if str(data) in ("digits", *DOWNLOADABLE) else Path(data)
    source = str(data) if path is None else settings.source or detect_source(path)
    names = {"size", "channels", "fit", "background", "white", "strict"}
    options = settings.model_dump(include=names)
    images = open_with_log(source, path, **options)
    channels, *size = images.images.shape[1:]
    options |= {"size": tuple(size), "channels": channels}
    held_out_images = None
    if held_out is not None:
        other = detect_source(held_out, named=source if source != "iclevr" else None)
        held_out_images = open_with_log(other, held_out, **options)
    else:
        with suppress(NoSplit):
            held_out_images = open_with_log(source, path, split="test", **options)
    with progress_bar("training the classifier") as progress:
        classifier = train_classifier(
            images, settings=settings, held_out=held_out_images, device=device, progress=progress
        )
    logger.info("saved %s", classifier.save(out))
    return classifier


@without_tf32()
def train_classifier(
    data: ImageSet,
    *,
    settings: ClassifierSettings = DEFAULT,
    held_out: ImageSet | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Classifier:
    """Train a classifier, score it on held-out images, and return it.

    If each image has exactly one label, the classifier predicts one class (softmax and
    cross-entropy). Otherwise it predicts each label independently (sigmoid and binary cross-entropy
    over the known labels). Images without any label are left out.

    data: labels +1 present, −1 absent, 0 unknown. settings: `fit` and `background` are only
    recorded; `source`, `size`, `channels` and `strict` are not used. The seed determines weights,
    order, shifts and held-out images. held_out: images of the same size, channels and labels, used
    only for scores; by default a tenth of `data`, at most 5,000. progress: called with (steps done,
    steps).
    Raises ValueError for no labels, labels that do not differ between images, and sets that do not
    match; NotFinite for a loss or a gradient that is NaN or infinite.
    """
    train, test = split_held_out(data, held_out, seed=settings.seed)
    channels, *size = data.images.shape[1:]
    spec = ClassifierSpec(
        kind=classifier_kind(train.labels, test.labels),
        label_names=data.label_names,
        channels=channels,
        size=tuple(size),
        stem="small" if min(size) <= SMALL_SIZE else "imagenet",
        source=data.source,
        fingerprint=data.fingerprint,
        num_images=len(train),
        epochs=settings.epochs_for(len(train)),
        steps=settings.optimisation(len(train)).steps,
        **settings.model_dump(include={"fit", "background", "batch_size", "learning_rate", "seed"}),
    )
    logger.info(
        "a classifier of %d %s: %d images to train on, %d held out, %.3g epochs",
        *(len(spec.label_names), spec.kind, len(train), len(test), spec.epochs),
    )
    network = _fit(spec, settings, train, select_device(device), progress)
    return _with_scores(Classifier(network, spec), test)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The labelled images of a set."""

    images: np.ndarray  # uint8 (M, C, H, W), the whole set
    indices: np.ndarray  # int64 (N,), of the labelled images in it
    labels: np.ndarray  # int8 (N, K), of these: +1 present, −1 absent, 0 unknown

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, chosen: np.ndarray) -> "LabelledImages":
        """Return a subset of the N images."""
        return replace(self, indices=self.indices[chosen], labels=self.labels[chosen])


def labelled_images(data: ImageSet) -> LabelledImages:
    """Return the images with at least one label. Raises DataError if there are none."""
    labels = data.labels
    if labels is None or not labels.any():
        raise DataError(
            f"the images ({data.source}) have no labels, and a classifier needs them. Make one "
            "sub-folder for each class, put a label file beside the images, or give an .npz or "
            "IDX files with labels."
        )
    indices = np.flatnonzero(labels.any(axis=1))
    return LabelledImages(data.images, indices, np.asarray(labels[indices]))


def split_held_out(
    data: ImageSet, held_out: ImageSet | None, *, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Return the images to train on and the held-out images.

    Without a held-out set, draw a tenth of `data` by `seed`, at most 5,000 images.
    Raises DataError if there are fewer than 3 labelled images, if no label differs between images,
    or if the two sets differ in labels or shape.
    """
    train = labelled_images(data)
    if len(train) < MIN_IMAGES:
        raise DataError(
            f"the number of labelled images is {len(train)}, and a classifier needs at least "
            f"{MIN_IMAGES}. Add more."
        )
    if not ((train.labels > 0).any(axis=0) & (train.labels < 0).any(axis=0)).any():
        raise DataError(
            f"each label of the images ({data.source}) is present in all of them or in none, so "
            f"there is nothing for a classifier to learn (labels: "
            f"{', '.join(data.label_names[:8])}). Give images that differ in a label."
        )
    if held_out is None:
        count = min(max(round(HELD_OUT_SHARE * len(train)), 1), MAX_HELD_OUT)
        order = torch.randperm(len(train), generator=generator(seed, "held out")).numpy()
        return train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))
    if held_out.label_names != data.label_names:
        raise DataError(
            f"the held-out images have the labels {', '.join(held_out.label_names) or 'none'}, but "
            f"the others {', '.join(data.label_names)}. Give the same labels in the same order."
        )
    if held_out.images.shape[1:] != data.images.shape[1:]:
        raise DataError(
            f"the held-out images are of shape {held_out.images.shape[1:]} (C, H, W), but the "
            f"others of {data.images.shape[1:]}. Give images of the same shape."
        )
    return train, labelled_images(held_out)


def classifier_kind(*labels: np.ndarray) -> Kind:
    """Return `classes` if every row of these (N, K) has exactly one +1 and no 0, else `labels`."""
    exclusive = all(((rows == 1).sum(axis=1) == 1).all() and (rows != 0).all() for rows in labels)
    return "classes" if exclusive else "labels"


def classifier_loss(logits: Tensor, labels: Tensor, kind: Kind) -> Tensor:
    """Return the loss, a scalar: the mean over images (`classes`), or over all known labels.

    logits: float (B,K). labels: (B,K) in {−1, 0, +1}; a 0 does not contribute to the loss.
    """
    if kind == "classes":
        return F.cross_entropy(logits, labels.argmax(dim=1))
    losses = F.binary_cross_entropy_with_logits(logits, (labels > 0).to(logits), reduction="none")
    known = labels != 0
    return (losses * known).sum() / known.sum()


def shift_images(images: Tensor, by: Tensor) -> Tensor:
    """Shift each image by whole pixels, (B, 2) down and right; the edge is repeated.

    Unlike a flip, a small shift does not change the label of a digit or a letter.
    """
    count, _, height, width = images.shape
    down, right = by[:, :1], by[:, 1:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) - right).clamp(0, width - 1)  # (B, W)
    index = torch.arange(count)[:, None, None]
    return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B,C,H,W)


def training_precision(device: torch.device, size: tuple[int, int]) -> Precision:
    """Return bf16 if the device has instructions for it, where it is about 1.6 times as fast.

    The choice depends on the hardware only, so the same seed gives the same classifier. It is fp32
    for images of at most 8 pixels: their last maps have one pixel, and there the CPU kernels leave
    garbage, NaN too, in the gradient of weights that only meet the padding (seen in torch 2.15).
    """
    return "bf16" if min(size) > 8 and computes_in_bf16(device) else "fp32"


def recalibrate_batch_norm(network: nn.Module, data: LabelledImages) -> None:
    """Measure the mean and variance of each batch normalisation with the final weights.

    Training keeps a moving average over the last dozen steps, which lags behind if there are few
    steps: then a classifier of small data would not recognise anything.
    """
    count = min(BATCH_NORM_IMAGES, len(data))
    chosen = np.linspace(0, len(data) - 1, count).round().astype(np.int64)
    parts = np.array_split(data.indices[chosen], max(1, count // BATCH_NORM_BATCH))
    batches = (to_float(torch.from_numpy(data.images[rows])) for rows in parts)
    update_bn(batches, network, next(network.parameters()).device)


def _fit(
    spec: ClassifierSpec,
    settings: ClassifierSettings,
    data: LabelledImages,
    device: torch.device,
    progress: Progress,
) -> nn.Module:
    optimisation = settings.optimisation(len(data))
    torch.manual_seed(seed_of(spec.seed, "classifier"))
    network = build_network(spec).to(device).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(network, optimisation)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    precision = training_precision(device, spec.size)
    fix = f"Use a learning_rate lower than {spec.learning_rate:g}. Nothing was written"
    losses, started = [], time.perf_counter()
    for step in range(spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optimisation, step)
        x, labels = _sample_batch(spec, data, step)
        with autocast(device, precision):
            logits = network(x.to(device))
        loss = classifier_loss(logits.float(), labels.to(device), spec.kind)
        loss.backward()
        values, _, stepped = apply_gradients(network, optimizer, scaler, loss.detach()[None])
        if not stepped:
            raise NotFinite(
                f"step {step + 1} of {spec.steps}: the loss or the gradient of the classifier is "
                f"not finite. {fix}"
            )
        losses.append(values.item())
        progress(step + 1, spec.steps)
        epoch, previous = ((step + i) * spec.batch_size // len(data) for i in (1, 0))
        last = step + 1 == spec.steps
        if epoch > previous or last:
            logger.info(
                "epoch %.3g of %.3g: loss %.4f, %.0f s",
                spec.epochs if last else (step + 1) * spec.batch_size / len(data),
                spec.epochs,
                np.mean(losses),
                time.perf_counter() - started,
            )
            losses, started = [], time.perf_counter()
    recalibrate_batch_norm(network, data)
    if name := first_non_finite(network.state_dict()):
        raise NotFinite(f"{name} of the classifier is not finite after the last step. {fix}")
    return network


def _sample_batch(spec: ClassifierSpec, data: LabelledImages, step: int) -> tuple[Tensor, Tensor]:
    """Return images in [−1, 1], shifted by at most a sixteenth of their size, and labels (B,K)."""
    chosen = image_indices(BatchDraws.of(spec.seed, step, spec.batch_size), len(data))
    limit = min(spec.size) // 16
    draws = generator(spec.seed, step, "shift")
    by = torch.randint(-limit, limit + 1, (spec.batch_size, 2), generator=draws)
    images = torch.from_numpy(data.images[data.indices[chosen]])
    return to_float(shift_images(images, by)), torch.from_numpy(data.labels[chosen])


def _with_scores(classifier: Classifier, test: LabelledImages) -> Classifier:
    """Return the classifier with its held-out scores in the specification."""
    # 1024 images at a time, because they are mapped from disk and may not fit into memory
    parts = np.array_split(test.indices, -(-len(test) // 1024))
    results = zip(*(classifier.predictions(test.images[rows]) for rows in parts), strict=True)
    predictions = label_scores.LabelPredictions(*map(np.concatenate, results))
    overall = label_scores.scores(label_scores.score_ratios(predictions, test.labels))
    reported = ("f1", "precision", "recall", "exact_match", "recall_at_k")
    if classifier.spec.kind == "classes":
        overall, reported = {"accuracy": overall["exact_match"]}, ("accuracy",)
    text = ", ".join(f"{name} {overall[name]:.4f}" for name in reported)
    logger.info("on the %d held-out images: %s", len(test), text)
    of_each = label_scores.ratios_per_label(predictions, test.labels)
    f1 = [label_scores.scores(ratios)["f1"] for ratios in of_each]
    measured = {
        "held_out": {name: overall[name] for name in reported},
        "held_out_f1": dict(zip(classifier.spec.label_names, f1, strict=True)),
        "num_held_out": len(test),
    }
    return Classifier(classifier.network, classifier.spec.model_copy(update=plain(measured)))
