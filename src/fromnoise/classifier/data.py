"""The labelled images that a classifier is trained on, and those that it is scored on."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fromnoise.classifier.classifier import Kind
from fromnoise.data import DataError, ImageSet, detect_source, open_images
from fromnoise.data.decoding.transforms import RGB, Fit
from fromnoise.data.sources.idx import find_images
from fromnoise.progress import progress_bar
from fromnoise.rng import generator

WITHOUT_A_PATH = ("digits", "mnist", "fashion-mnist", "cifar10")
WITH_A_TEST = ("mnist", "fashion-mnist", "cifar10")
HELD_OUT, AT_MOST = 0.1, 5000  # of the images, where no set of its own is given
FEWEST = 3  # one to hold out, and two to train on
logger = logging.getLogger("fromnoise")


def open_labelled(
    data: str | Path,
    *,
    source: str | None = None,
    held_out: Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    fit: Fit = "crop",
    background: RGB = (255, 255, 255),
    strict: bool = False,
) -> tuple[ImageSet, ImageSet | None]:
    """The images to train on, and those to score on where they are a set of their own.

    data: a folder, file or archive, whose source is found out unless given; or the name of a source
    that needs no path, such as `digits` (the folder of that name is `./digits`). held_out: a path;
    by default what the source itself keeps for testing. Others as in `open_images`; the held-out
    images come to the size and channels of the others.
    """

    def read(
        source: str,
        path: Path | None,
        split: str,
        size: tuple[int, int] | None = size,
        channels: int | None = channels,
    ) -> ImageSet:
        with progress_bar("decoding") as progress:
            images = open_images(
                source,
                path,
                split=split,
                size=size,
                channels=channels,
                fit=fit,
                background=background,
                strict=strict,
                progress=progress,
            )
        _, have, height, width = images.images.shape
        what = (path or source, len(images), have, height, width)
        logger.info("%s: %d images, %d channels, %dx%d", *what)
        for line in images.skipped:
            logger.warning("skipped %s", line)
        if images.skipped:
            logger.warning("skipped %d images of %s", len(images.skipped), path or source)
        return images

    path = None if str(data) in WITHOUT_A_PATH else Path(data)
    source = str(data) if path is None else source or detect_source(path)
    images = read(source, path, "train")
    _, have, height, width = images.images.shape
    if held_out is not None:
        other = detect_source(held_out, named=source if source != "iclevr" else None)
        return images, read(other, held_out, "train", (height, width), have)
    if _has_test(source, path):
        return images, read(source, path, "test", (height, width), have)
    return images, None


def _has_test(source: str, path: Path | None) -> bool:
    if source == "idx" and path is not None:
        return find_images(path, "test") is not None
    return source in WITH_A_TEST


@dataclass(frozen=True, eq=False)
class Labelled:
    """Those images of a set of which something is said."""

    images: np.ndarray  # uint8 (M, C, H, W), of the whole set
    rows: np.ndarray  # int64 (N,), which of them
    labels: np.ndarray  # int8 (N, K), of those: +1 present, −1 absent, 0 not said

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: np.ndarray) -> "Labelled":
        """The chosen ones of the N."""
        return Labelled(self.images, self.rows[chosen], self.labels[chosen])


def labelled(data: ImageSet) -> Labelled:
    """The images with a label. Raises DataError where there are none."""
    labels = data.labels
    if labels is None or not labels.any():
        raise DataError(
            f"the images ({data.source}) have no labels, and a classifier learns from them: make one "
            "sub-folder for each class, put a label file beside the images, or give an .npz or IDX "
            "files with labels"
        )
    rows = np.flatnonzero(labels.any(axis=1))
    return Labelled(data.images, rows, np.asarray(labels[rows]))


def divide(data: ImageSet, held_out: ImageSet | None, *, seed: int) -> tuple[Labelled, Labelled]:
    """The images to train on, and those to score on.

    Without a set of its own the latter is a tenth of `data`, drawn by `seed`, at most 5,000.
    Raises DataError where nothing can be told apart, or where the two do not belong together.
    """
    train = labelled(data)
    if len(train) < FEWEST:
        raise DataError(
            f"a classifier learns from {FEWEST} labelled images at the least, and there are {len(train)}"
        )
    if not ((train.labels > 0).any(axis=0) & (train.labels < 0).any(axis=0)).any():
        raise DataError(
            f"there is nothing for a classifier to tell apart: each label of the images ({data.source}) "
            f"is on all of them or on none; labels: {', '.join(data.label_names[:8])}"
        )
    if held_out is None:
        part = min(max(round(HELD_OUT * len(train)), 1), AT_MOST)
        order = torch.randperm(len(train), generator=generator(seed, "held out")).numpy()
        return train.only(np.sort(order[part:])), train.only(np.sort(order[:part]))
    if held_out.label_names != data.label_names:
        raise DataError(
            f"the held-out images have the labels {', '.join(held_out.label_names) or 'none'}, but "
            f"the others {', '.join(data.label_names)}; they must be the same, in the same order"
        )
    if held_out.images.shape[1:] != data.images.shape[1:]:
        raise DataError(
            f"the held-out images are of shape {held_out.images.shape[1:]} (C, H, W), but the "
            f"others of {data.images.shape[1:]}; they must be the same"
        )
    return train, labelled(held_out)


def kind_of(*labels: np.ndarray) -> Kind:
    """`classes` where every row of these (N, K) has exactly one +1 and no 0, else `labels`."""
    exclusive = all(((rows == 1).sum(axis=1) == 1).all() and (rows != 0).all() for rows in labels)
    return "classes" if exclusive else "labels"
