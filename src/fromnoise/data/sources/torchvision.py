"""Sources `mnist`, `fashion-mnist` and `cifar10`, which torchvision fetches when they are absent.

Files that are there already are used as they are; torchvision is imported for a download, and
for CIFAR-10's own files, and at no other time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.errors import DataError, NotHere
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import Listing, Pictures, Request, array_pictures, stat_stamp
from fromnoise.data.sources.idx import SPLITS, find_images, idx_listing

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Known:
    """What is known of a set before it is here."""

    counts: dict[str, int]  # images of each split
    shape: tuple[int, int, int]  # (C,H,W)
    classes: int


DOWNLOADED = {
    "mnist": Known({"train": 60_000, "test": 10_000}, (1, 28, 28), 10),
    "fashion-mnist": Known({"train": 60_000, "test": 10_000}, (1, 28, 28), 10),
    "cifar10": Known({"train": 50_000, "test": 10_000}, (3, 32, 32), 10),
}


def mnist(request: Request) -> Listing:
    """Handwritten digits, 28×28 grey: 60,000 to train and 10,000 to test."""
    return _idx_set(request, "mnist", "MNIST", names=tuple("0123456789"))


def fashion_mnist(request: Request) -> Listing:
    """Clothes, 28×28 grey, a drop-in for MNIST: 60,000 to train and 10,000 to test."""
    return _idx_set(request, "fashion-mnist", "FashionMNIST", names=FASHION)


def cifar10(request: Request) -> Listing:
    """Small photographs in ten classes, 32×32 RGB: 50,000 to train and 10,000 to test."""
    if request.split not in SPLITS:
        raise DataError(f"data.split is {request.split!r}; allowed: {', '.join(SPLITS)}")
    root = _root(request)
    inner = "cifar-10-batches-py"
    root = root.parent if root.name == inner else root

    def files() -> list[Path]:
        return sorted((root / inner).glob("*_batch*")) if (root / inner).is_dir() else []

    if not files():
        _download(request, "cifar10", "CIFAR10", root)

    @contextmanager
    def open_pictures() -> Iterator[Pictures]:
        from torchvision import datasets

        try:
            data: Any = datasets.CIFAR10(str(root), train=request.split == "train")
        except (RuntimeError, OSError) as error:
            raise DataError(f"data.path: {root} holds no whole CIFAR-10: {_line(error)}") from error
        labels = one_hot(np.array(data.targets), len(data.classes))
        yield array_pictures(data.data, labels=labels, label_names=tuple(data.classes))

    return Listing([stat_stamp(path) for path in files()], open_pictures)


def _idx_set(
    request: Request, source: str, torchvision_name: str, *, names: tuple[str, ...]
) -> Listing:
    """The idx files, in the path itself or where torchvision puts them below it."""
    root = _root(request)
    places = (root, root / "raw", root / torchvision_name / "raw")

    def find() -> Path | None:
        return next((found for p in places if (found := find_images(p, request.split))), None)

    images = find()
    if images is None:
        _download(request, source, torchvision_name, root)
        images = find()
    if images is None:
        raise DataError(f"data.path: {root} has no {source} even after its download")
    return idx_listing(images, names)


def _root(request: Request) -> Path:
    return (request.path or request.cache / "downloads").expanduser().absolute()


def _download(request: Request, source: str, torchvision_name: str, root: Path) -> None:
    hint = f"fetch it by hand and set data.path (--data PATH) to its folder; {root} has no copy"
    if not request.download:
        raise NotHere(f"{source}: downloading is off; {hint}")
    try:
        from torchvision import datasets

        fetch: Callable[..., object] = getattr(datasets, torchvision_name)
        fetch(str(root), train=request.split == "train", download=True)
    except (RuntimeError, OSError, ImportError) as error:  # OSError: also urllib's URLError
        raise DataError(f"{source}: the download failed ({_line(error)}); {hint}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
