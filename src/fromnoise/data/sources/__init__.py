"""The sources by name, and the detection of the source of a path."""

from collections.abc import Callable
from pathlib import Path

from fromnoise.data.decoding.decode import EXTENSIONS
from fromnoise.data.errors import DataError
from fromnoise.data.sources.base import SourceListing, SourceRequest, existing_path
from fromnoise.data.sources.folder import folder, has_iclevr, iclevr, zip_file
from fromnoise.data.sources.idx import cifar10, fashion_mnist, has_idx, idx, mnist
from fromnoise.data.sources.npz import digits, npz

SOURCES: dict[str, Callable[[SourceRequest], SourceListing]] = {
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
ENDINGS = {".zip": "zip", ".npz": "npz", ".npy": "npz", "ubyte": "idx", "ubyte.gz": "idx"}


def get_source(name: str) -> Callable[[SourceRequest], SourceListing]:
    """Return the source of that name. Raises `DataError` with all names if there is none."""
    if name not in SOURCES:
        raise DataError(f"data.source is {name!r}. Choose one of {', '.join(SOURCES)}.")
    return SOURCES[name]


def detect_source(path: str | Path, *, named: str | None = None) -> str:
    """Return which of `SOURCES` reads a path: "folder", "zip", "idx", "npz", "iclevr", "cifar10".

    named: the source in the recipe. It is kept if it reads these files too, and knows more about
    them: `fashion-mnist` knows the names of its classes, `idx` does not.
    Raises `DataError` if the path does not exist, or if no source reads it.
    """
    path = existing_path(path)
    if named == "iclevr" and not has_iclevr(path):
        other = f", such as {path.parent}" if has_iclevr(path.parent) else ""
        raise DataError(
            f"data.path: {path} has no objects.json and train.json, which this recipe needs. Give "
            f"the folder that contains them{other}."
        )
    if path.is_dir():
        if has_idx(path):
            return named if named in {"mnist", "fashion-mnist"} else "idx"
        if has_iclevr(path):
            return "iclevr"
        return "cifar10" if (path / "cifar-10-batches-py").is_dir() else "folder"
    for ending, source in ENDINGS.items():
        if path.name.lower().endswith(ending):
            return source
    kind = f"extension {path.suffix}" if path.suffix else "no extension"
    raise DataError(
        f"data.path: {path} is a file with {kind}. Give a folder of images "
        f"({', '.join(EXTENSIONS)}), or a file .zip, .npz, .npy, *-ubyte or *-ubyte.gz."
    )
