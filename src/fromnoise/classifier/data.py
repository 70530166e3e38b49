"""Open the labelled images that a classifier is trained on, and its held-out images."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fromnoise.classifier.classifier import Kind
from fromnoise.classifier.settings import ClassifierSettings
from fromnoise.data import DataError, ImageSet, detect_source, open_images
from fromnoise.data.sources.idx import find_images
from fromnoise.progress import progress_bar
from fromnoise.rng import generator

SOURCES_WITHOUT_PATH = ("digits", "mnist", "fashion-mnist", "cifar10")
SOURCES_WITH_TEST = ("mnist", "fashion-mnist", "cifar10")
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 5000  # of the images, unless a held-out set is given
MIN_IMAGES = 3  # one held out, two to train on
logger = logging.getLogger("fromnoise")


def open_labelled_images(
    data: str | Path, settings: ClassifierSettings, *, held_out: Path | None = None
) -> tuple[ImageSet, ImageSet | None]:
    """Open the images to train on, and the held-out images if they are a set of their own.

    data: a folder, file or archive, or the name of a source without a path, such as `digits` (write
    `./digits` for a folder of that name). held_out: a path; by default the test part of the source,
    if it has one. The held-out images get the size and channels of the others.
    """
    path = None if str(data) in SOURCES_WITHOUT_PATH else Path(data)
    source = str(data) if path is None else settings.source or detect_source(path)
    images = _open(source, path, "train", settings)
    channels, *size = images.images.shape[1:]
    same_shape = settings.model_copy(update={"size": tuple(size), "channels": channels})
    if held_out is not None:
        other = detect_source(held_out, named=source if source != "iclevr" else None)
        return images, _open(other, held_out, "train", same_shape)
    has_test = source in SOURCES_WITH_TEST
    if source == "idx" and path is not None:
        has_test = find_images(path, "test") is not None
    return images, _open(source, path, "test", same_shape) if has_test else None


def _open(source: str, path: Path | None, split: str, settings: ClassifierSettings) -> ImageSet:
    options = settings.model_dump(include={"size", "channels", "fit", "background", "strict"})
    with progress_bar("decoding") as progress:
        images = open_images(source, path, split=split, progress=progress, **options)
    name = path or source
    logger.info("%s: %d images, %d channels, %dx%d", name, *images.images.shape)
    for line in images.skipped:
        logger.warning("skipped %s", line)
    if images.skipped:
        logger.warning("skipped %d images of %s", len(images.skipped), name)
    return images


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The labelled images of a set."""

    images: np.ndarray  # uint8 (M, C, H, W), the whole set
    indices: np.ndarray  # int64 (N,), of the labelled images in it
    labels: np.ndarray  # int8 (N, K), of these: +1 present, −1 absent, 0 unknown

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, chosen: np.ndarray) -> "LabelledImages":
        """Return the chosen ones of the N images."""
        return replace(self, indices=self.indices[chosen], labels=self.labels[chosen])


def labelled_images(data: ImageSet) -> LabelledImages:
    """Return the images with at least one label. Raises DataError if there are none."""
    labels = data.labels
    if labels is None or not labels.any():
        raise DataError(
            f"the images ({data.source}) have no labels, and a classifier needs them. Make one "
            "sub-folder for each class, put a label file beside the images, or give an .npz or "
            "IDX files with labels"
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
            f"there are only {len(train)} labelled images. A classifier needs at least {MIN_IMAGES}"
        )
    if not ((train.labels > 0).any(axis=0) & (train.labels < 0).any(axis=0)).any():
        raise DataError(
            f"each label of the images ({data.source}) is present in all of them or in none, so "
            "there is nothing for a classifier to learn. Give images that differ in a label; "
            f"labels: {', '.join(data.label_names[:8])}"
        )
    if held_out is None:
        count = min(max(round(HELD_OUT_SHARE * len(train)), 1), MAX_HELD_OUT)
        order = torch.randperm(len(train), generator=generator(seed, "held out")).numpy()
        return train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))
    if held_out.label_names != data.label_names:
        raise DataError(
            f"the held-out images have the labels {', '.join(held_out.label_names) or 'none'}, but "
            f"the others {', '.join(data.label_names)}. Give the same labels in the same order"
        )
    if held_out.images.shape[1:] != data.images.shape[1:]:
        raise DataError(
            f"the held-out images are of shape {held_out.images.shape[1:]} (C, H, W), but the "
            f"others of {data.images.shape[1:]}. Give images of the same shape"
        )
    return train, labelled_images(held_out)


def classifier_kind(*labels: np.ndarray) -> Kind:
    """Return `classes` if every row of these (N, K) has exactly one +1 and no 0, else `labels`."""
    exclusive = all(((rows == 1).sum(axis=1) == 1).all() and (rows != 0).all() for rows in labels)
    return "classes" if exclusive else "labels"
