"""The real images that generated ones are held against."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.data import DataError, ImageSet, SeveralSizes, detect_source, open_images
from fromnoise.model.model import Model
from fromnoise.model.spec import run_folder_of

SEEDED = re.compile(r"\d{6,}(-.*)?\.png")  # as `fromnoise sample` names an image, by its seed
RECIPE_FILE = "recipe.yaml"


class Real(NamedTuple):
    """Real images, and which they are in words."""

    images: ImageSet
    what: str


def images_of_run(loaded_from: Path, split: str) -> Real:
    """The images that a model was trained on (`train`), or those its source keeps for testing.

    They are prepared as they were for the training. loaded_from: a run or a checkpoint in it.
    Raises ConfigError where no recipe says which they are, DataError where they cannot be had.
    """
    home = run_folder_of(loaded_from)
    if not (home / RECIPE_FILE).is_file():
        raise ConfigError(
            f"{home.absolute()} has no {RECIPE_FILE} to say what was trained on; give --reference "
            "a folder, zip or npz of real images"
        )
    data = load_recipe(home / RECIPE_FILE).data
    wanted = data.model_dump(exclude={"source", "path", "flip", "labels", "split"})
    split = data.split if split == "train" else split
    return Real(
        open_images(data.source, data.path, split=split, **wanted), f"{data.source}, {split}"
    )


class Known(NamedTuple):
    """What is known of the images that a model was trained on."""

    training: Real | None = None
    held_out: Real | None = None  # of the same source, and not trained on
    why: str = f"it is not known what was trained on: a run says so in its {RECIPE_FILE}"  # if not


UNKNOWN = Known()


def training_data_of(loaded_from: Path) -> Known:
    """The training and test images of the run that a model was loaded from, as far as they go."""
    if not (run_folder_of(loaded_from) / RECIPE_FILE).is_file():
        return UNKNOWN
    try:
        training = images_of_run(loaded_from, "train")
    except (ConfigError, DataError) as error:  # the recipe is damaged, or the images are gone
        return Known(why=f"what was trained on cannot be had: {error}")
    try:
        held_out = images_of_run(loaded_from, "test")
    except DataError:  # most sources have no test images
        held_out = None
    if held_out is not None and training.what == held_out.what:
        held_out = None  # it was trained on the test images
    return Known(training, held_out)


def evenly(images: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the images, evenly spread."""
    rows = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(np.int64)
    return images[rows]


def images_like_training(model: Model, path: Path) -> Real:
    """The images of a folder, zip or npz, brought to a model's size as its own were."""
    spec = model.spec
    how = {"fit": spec.fit, "background": spec.background}
    named = spec.source if spec.source != "iclevr" else None
    images = open_given(path, named=named, size=spec.size, channels=spec.channels, **how)
    return Real(images, str(path.absolute()))


def images_at_size(path: Path, shape: tuple[int, int, int]) -> Real:
    """The images of a folder, zip or npz, which must be of `shape` (C, H, W) as they are.

    Raises DataError where they are not.
    """
    channels, *size = shape
    images = open_given(path)
    have = images.images.shape[1:]
    if have != (channels, *size):
        raise DataError(
            f"{path.absolute()} has images of {have[1]}×{have[2]} (H×W) in {have[0]} channels, but "
            f"the generated ones are {size[0]}×{size[1]} in {channels}; bring them to one size"
        )
    return Real(images, str(path.absolute()))


def open_given(path: Path, *, named: str | None = None, **how: Any) -> ImageSet:
    """The images of a folder, zip or npz; in a folder that `fromnoise sample` wrote, its samples.

    named: as in `detect_source`. how: as in `open_images`.
    Raises DataError, which names a file where sizes differ and none is asked for.
    """
    source = detect_source(path, named=named)
    only = samples_in(path) if source == "folder" else None
    try:
        return open_images(source, path, only=only, **how)
    except SeveralSizes as error:
        raise DataError(
            f"{path.absolute()}: {error.sizes}; images are compared as they are, so bring them to "
            "one size, or move the others away"
        ) from error


def samples_in(folder: Path) -> list[str] | None:
    """The names of the samples in a folder that `fromnoise sample` wrote; None for any other.

    Beside them it may have put a grid, the noise, a strip and more. Of the files that are named as
    samples are, the first that can be opened says whether they are.
    """
    folder = folder.expanduser()
    names = sorted(file.name for file in folder.iterdir() if SEEDED.fullmatch(file.name))
    for name in names:
        try:
            with Image.open(folder / name) as image:
                drawn = image.info.get("software") == "fromnoise" and "seed" in image.info
        except OSError:  # a broken file is named by whoever reads them all
            continue
        return names if drawn else None
    return None
