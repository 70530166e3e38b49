"""Sources `mnist`, `fashion-mnist` and `cifar10`, which torchvision downloads if they are missing.

torchvision is imported only for a download, and to read the files of CIFAR-10.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.errors import DataError, NotAvailable, reason, unreadable
from fromnoise.data.labels.names import one_hot
from fromnoise.data.sources.base import (
    ImageReader,
    SourceListing,
    SourceRequest,
    array_reader,
    stat_stamp,
)
from fromnoise.data.sources.idx import SPLITS, find_images, idx_listing

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that are known before its download."""

    counts: dict[str, int]  # images per split
    shape: tuple[int, int, int]  # (C,H,W)
    classes: int


DOWNLOADABLE = {
    "mnist": DatasetInfo({"train": 60_000, "test": 10_000}, (1, 28, 28), 10),
    "fashion-mnist": DatasetInfo({"train": 60_000, "test": 10_000}, (1, 28, 28), 10),
    "cifar10": DatasetInfo({"train": 50_000, "test": 10_000}, (3, 32, 32), 10),
}


def mnist(request: SourceRequest) -> SourceListing:
    """Open handwritten digits, 28×28 grey: 60,000 for training and 10,000 for testing."""
    return _idx_set(request, "mnist", "MNIST", names=tuple("0123456789"))


def fashion_mnist(request: SourceRequest) -> SourceListing:
    """Open images of clothes, 28×28 grey: 60,000 for training and 10,000 for testing."""
    return _idx_set(request, "fashion-mnist", "FashionMNIST", names=FASHION)


def cifar10(request: SourceRequest) -> SourceListing:
    """Open photographs of ten classes, 32×32 RGB: 50,000 for training and 10,000 for testing."""
    if request.split not in SPLITS:
        raise DataError(f"data.split is {request.split!r}. Choose one of {', '.join(SPLITS)}.")
    root = _root(request)
    inner = "cifar-10-batches-py"
    root = root.parent if root.name == inner else root

    if not any((root / inner).glob("*_batch*")):
        _download(request, "cifar10", "CIFAR10", root)

    def open_reader() -> ImageReader:
        from torchvision import datasets

        with unreadable(f"data.path: {root} has no complete CIFAR-10", RuntimeError, OSError):
            data: Any = datasets.CIFAR10(str(root), train=request.split == "train")
        labels = one_hot(np.array(data.targets), len(data.classes))
        return array_reader(data.data, labels=labels, label_names=tuple(data.classes))

    files = sorted((root / inner).glob("*_batch*"))
    return SourceListing([stat_stamp(path) for path in files], open_reader)


def _idx_set(
    request: SourceRequest, source: str, torchvision_name: str, *, names: tuple[str, ...]
) -> SourceListing:
    """Open idx files in the path itself, or in the folders that torchvision creates below it."""
    root = _root(request)
    folders = (root, root / "raw", root / torchvision_name / "raw")

    def find() -> Path | None:
        files = (find_images(folder, request.split) for folder in folders)
        return next((file for file in files if file), None)

    if (images := find()) is None:
        _download(request, source, torchvision_name, root)
        images = find()
    if images is None:
        raise DataError(f"data.path: {root} has no {source} after its download. Download it again.")
    return idx_listing(images, names)


def _root(request: SourceRequest) -> Path:
    return (request.path or request.cache / "downloads").expanduser().absolute()


def _download(request: SourceRequest, source: str, torchvision_name: str, root: Path) -> None:
    fix = f"{root} has no copy. Download it yourself and set data.path (--data PATH) to its folder."
    if not request.download:
        raise NotAvailable(f"{source}: downloads are off, and {fix}")
    try:
        from torchvision import datasets

        dataset: Any = getattr(datasets, torchvision_name)
        dataset(str(root), train=request.split == "train", download=True)
    except (RuntimeError, OSError, ImportError) as error:  # OSError: also urllib's URLError
        raise DataError(f"{source}: the download failed ({reason(error)}), and {fix}") from error
