"""Images that a person gives: a folder, zip or npz, and which of its files are meant."""

import re
from pathlib import Path
from typing import Any

from PIL import Image

from fromnoise.data import DataError, ImageSet, SeveralSizes, detect_source, open_images

SEEDED = re.compile(r"\d{6,}(-.*)?\.png")  # as `fromnoise sample` names an image, by its seed


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
            f"{path.absolute()}: {error.found}; images are compared as they are, so bring them to "
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
