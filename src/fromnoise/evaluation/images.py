"""Real images of an evaluation: those of a run, or of a folder, zip or npz."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.config.schema import Data
from fromnoise.data import DataError, ImageSet, SeveralSizes, detect_source, open_images
from fromnoise.model.spec import ModelSpec

SEEDED = re.compile(r"\d{6,}(-.*)?\.png")  # a sample, named by its seed
RECIPE_FILE = "recipe.yaml"


class RealImages(NamedTuple):
    """Real images and their description."""

    images: ImageSet
    what: str


class RunImages(NamedTuple):
    """The training and the held-out images of a run, if they are available."""

    training: RealImages | None = None
    held_out: RealImages | None = None  # the test split of the same source
    reason: str = f"the training images are unknown: there is no {RECIPE_FILE}"  # if there are none


NO_RUN = RunImages()


def run_images_of(run: Path) -> RunImages:
    """Return the training and the held-out images of a run folder, prepared as for the training."""
    if not (run / RECIPE_FILE).is_file():
        return NO_RUN
    try:
        data = load_recipe(run / RECIPE_FILE).data
        training = _open_split(data, data.split)
    except (ConfigError, DataError) as error:  # the recipe is damaged, or the images are gone
        return RunImages(reason=f"the training images are not available: {error}")
    try:
        held_out = _open_split(data, "test") if data.split != "test" else None
    except DataError:  # most sources have no test split
        held_out = None
    return RunImages(training, held_out)


def _open_split(data: Data, split: str) -> RealImages:
    options = data.model_dump(exclude={"source", "path", "flip", "labels", "split"})
    images = open_images(data.source, data.path, split=split, **options)
    return RealImages(images, f"{data.source}, {split}")


def evenly_spaced(images: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the images, evenly spaced."""
    rows = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(np.int64)
    return images[rows]


def images_like_training(spec: ModelSpec, path: Path) -> RealImages:
    """Return the images of a folder, zip or npz, brought to a model's size as in its training."""
    named = spec.source if spec.source != "iclevr" else None
    images = open_comparable(
        path,
        named=named,
        size=spec.size,
        channels=spec.channels,
        fit=spec.fit,
        background=spec.background,
    )
    return RealImages(images, str(path.absolute()))


def images_at_size(path: Path, shape: tuple[int, int, int]) -> RealImages:
    """Return the images of a folder, zip or npz, unchanged.

    Raises DataError if they are not of `shape` (C, H, W).
    """
    channels, *size = shape
    images = open_comparable(path)
    own = images.images.shape[1:]
    if own != (channels, *size):
        raise DataError(
            f"{path.absolute()} has images of {own[1]}×{own[2]} (H×W) with {own[0]} channels, but "
            f"the generated ones are {size[0]}×{size[1]} with {channels}. Bring them to one size."
        )
    return RealImages(images, str(path.absolute()))


def open_comparable(path: Path, *, named: str | None = None, **options: Any) -> ImageSet:
    """Open the images of a folder, zip or npz; of a folder of `fromnoise sample`, the samples.

    named: see `detect_source`. options: see `open_images`.
    Raises DataError, which names a file, for images of several sizes if no size is set.
    """
    source = detect_source(path, named=named)
    only = samples_in(path) if source == "folder" else None
    try:
        return open_images(source, path, only=only, **options)
    except SeveralSizes as error:
        raise DataError(
            f"{path.absolute()}: {error.sizes}. Images are compared unchanged: bring them to one "
            "size, or remove the others."
        ) from error


def samples_in(folder: Path) -> list[str] | None:
    """Return the names of the samples that `fromnoise sample` wrote into a folder, or None.

    The folder may also hold a grid, the noise and a strip. The first readable file with the name
    of a sample decides, by its metadata.
    """
    folder = folder.expanduser()
    names = sorted(file.name for file in folder.iterdir() if SEEDED.fullmatch(file.name))
    for name in names:
        try:
            with Image.open(folder / name) as image:
                sampled = image.info.get("software") == "fromnoise" and "seed" in image.info
        except OSError:  # a broken file is named when all are read
            continue
        return names if sampled else None
    return None
