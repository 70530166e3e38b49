"""The sources by name, the digits that come with the package, and which source a path is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np

from fromnoise.data.decoding.decode import ACCEPTED
from fromnoise.data.errors import DataError
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import Listing, Pictures, Request, array_pictures, train_only
from fromnoise.data.sources.files import folder, zip_file
from fromnoise.data.sources.iclevr import has_iclevr, iclevr
from fromnoise.data.sources.idx import has_idx, idx
from fromnoise.data.sources.npz import npz
from fromnoise.data.sources.torchvision import cifar10, fashion_mnist, mnist


def digits(request: Request) -> Listing:
    """1,797 real handwritten digits, 8×8 grey, white on black; `assets/README.md` says whose."""
    train_only(request.split, source="digits")
    if request.path is not None:
        raise DataError(
            f"data.path is {request.path}, but source digits comes with the package and takes none"
        )

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        asset = resources.files("fromnoise.data") / "assets" / "digits.npz"
        with asset.open("rb") as file, np.load(file) as arrays:
            images, classes = arrays["images"], arrays["labels"]
        yield array_pictures(
            images[..., None],
            peak=16,
            labels=one_hot(classes, 10),
            label_names=tuple("0123456789"),
        )

    return Listing("UCI optical digits, test part", open_pictures)


SOURCES: dict[str, Callable[[Request], Listing]] = {
    "digits": digits,
    "folder": folder,
    "zip": zip_file,
    "idx": idx,
    "npz": npz,
    "iclevr": iclevr,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}


def find_source(name: str) -> Callable[[Request], Listing]:
    """The source of that name, or a `DataError` that lists them."""
    if name not in SOURCES:
        raise DataError(f"data.source is {name!r}; allowed: {', '.join(SOURCES)}")
    return SOURCES[name]


def detect_source(path: str | Path, *, named: str | None = None) -> str:
    """Which of `SOURCES` reads this path: "folder", "zip", "idx", "npz", "iclevr" or "cifar10".

    named: a source that was meant before; kept where it reads these files too and knows more of
    them, as `fashion-mnist` knows the names of its classes and `idx` does not.
    Raises `DataError` where there is nothing, or nothing known.
    """
    path = Path(path).expanduser().absolute()
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist")
    if named == "iclevr" and not has_iclevr(path):
        hint = f"; {path.parent} has them" if has_iclevr(path.parent) else ""
        raise DataError(
            f"data.path: {path} has no objects.json and train.json, which this recipe needs{hint}"
        )
    if path.is_dir() and has_idx(path):
        return named if named in {"mnist", "fashion-mnist"} else "idx"
    if path.is_dir() and has_iclevr(path):
        return "iclevr"
    if path.is_dir():
        return "cifar10" if (path / "cifar-10-batches-py").is_dir() else "folder"
    name = path.name.lower()
    if name.endswith(".zip"):
        return "zip"
    if name.endswith((".npz", ".npy")):
        return "npz"
    if name.endswith(("ubyte", "ubyte.gz")):
        return "idx"
    seen = f"extension {path.suffix}" if path.suffix else "no extension"
    raise DataError(
        f"data.path: {path} is a file with {seen}; accepted: a folder of images "
        f"({ACCEPTED.removeprefix('accepted: ')}), .zip, .npz, .npy, *-ubyte, *-ubyte.gz"
    )
