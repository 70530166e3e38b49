"""Source `digits`: the images that come with the package."""

from importlib import resources

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import (
    ImageReader,
    SourceListing,
    SourceRequest,
    array_reader,
    require_train_split,
)


def digits(request: SourceRequest) -> SourceListing:
    """Open 1,797 real handwritten digits, 8×8 grey, white on black (see `assets/README.md`)."""
    require_train_split(request, "digits")
    if request.path is not None:
        raise DataError(
            f"data.path is {request.path}, but source digits comes with the package. "
            "Remove data.path."
        )

    def open_reader() -> ImageReader:
        asset = resources.files("fromnoise.data") / "assets" / "digits.npz"
        with asset.open("rb") as file, np.load(file) as arrays:
            images, classes = arrays["images"], arrays["labels"]
        names = tuple("0123456789")
        labels = one_hot(classes, len(names))
        return array_reader(images[..., None], peak=16, labels=labels, label_names=names)

    return SourceListing("UCI optical digits, test part", open_reader)
