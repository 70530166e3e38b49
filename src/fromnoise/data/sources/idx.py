"""Source `idx`, the file format of MNIST and its successors, gzipped or not; and data sets by name.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, the type, the number of axes, their
lengths as big-endian 32-bit integers, and the values.

`mnist`, `fashion-mnist` and `cifar10` are downloaded by torchvision if they are missing. It is
imported only for a download, and to read the files of CIFAR-10.
"""

import gzip
import re
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.errors import DataError, NoSplit, NotAvailable, reason, unreadable
from fromnoise.data.labels import one_hot
from fromnoise.data.sources import base

_IMAGES = re.compile(r"(.*)images[-.]idx\d-ubyte(\.gz)?")
_UBYTE = 8  # the type of MNIST's files: unsigned bytes
_MAX_RATIO = 1032  # of a gzip: deflate packs at most 258 bytes in two bits
SPLITS = {"train": ("train",), "test": ("t10k", "test")}
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


def idx(request: base.SourceRequest) -> base.SourceListing:
    """Open a folder with `train-images-idx3-ubyte[.gz]` and so on, or one such file.

    The labels, if any, are in the file beside it whose name has `labels` instead of `images`.
    """
    path = base.require_path(request, "idx", splits=True)
    if path.is_file():
        if request.split != "train":
            raise NoSplit(
                f"data.split is {request.split!r}, but data.path is one file, {path}. Set "
                "data.path to its folder."
            )
        return idx_listing(path)
    images = find_images(path, request.split)
    if images is None:
        files = " or ".join(f"{stem}-images-idx3-ubyte[.gz]" for stem in SPLITS[request.split])
        raise NoSplit(f"data.path: {path} has no images of split {request.split!r}. Add {files}.")
    return idx_listing(images)


def find_images(folder: Path, split: str) -> Path | None:
    """Return the file of a split directly in a folder, or None. "x" is preferred to "x.gz"."""
    if split not in SPLITS:
        raise DataError(f"data.split is {split!r}. Choose one of {', '.join(SPLITS)}.")
    if not folder.is_dir():
        return None
    files = sorted(
        path
        for path in folder.iterdir()
        if (match := _IMAGES.fullmatch(path.name))
        and any(stem in match[1] for stem in SPLITS[split])
    )
    if len({path.name.removesuffix(".gz") for path in files}) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(
            f"data.path: {folder} has several files of split {split!r}: {names}. Set data.path to "
            "one of them."
        )
    return files[0] if files else None


def has_idx(folder: Path) -> bool:
    """Return whether a folder directly contains idx files of images."""
    return any(_IMAGES.fullmatch(path.name) for path in folder.iterdir())


def idx_listing(images: Path, names: tuple[str, ...] | None = None) -> base.SourceListing:
    """Open one file of images and its labels. Without `names`, classes are named by number."""
    own = images.name.removesuffix(".gz")
    name = own.replace("images", "labels").replace("idx3", "idx1")
    beside = [images.with_name(file) for file in (name, f"{name}.gz") if name != own]
    labels = next((path for path in beside if path.is_file()), None)

    def open_reader() -> base.ImageReader:
        pixels = base.channels_last(_read(images), where=f"data.path: {images}")
        if labels is None:
            return base.array_reader(pixels)
        classes = _read(labels)
        if classes.shape != pixels.shape[:1]:
            raise DataError(
                f"data.path: {images.name} has {len(pixels)} images, but {labels} has labels of "
                f"shape {classes.shape}. Replace the file that does not belong."
            )
        highest = int(classes.max(initial=0))
        known = names or tuple(str(i) for i in range(max(9, highest) + 1))
        if highest >= len(known):
            raise DataError(
                f"data.path: {labels} has class {highest}. Its classes must be 0..{len(known) - 1}."
            )
        return base.array_reader(pixels, labels=(one_hot(classes, len(known)), known))

    stamp = [base.stat_stamp(path) for path in (images, labels) if path is not None]
    return base.SourceListing(stamp, open_reader)


def _read(path: Path) -> np.ndarray:
    """Return the uint8 array of one file."""
    kinds = (OSError, EOFError, struct.error, zlib.error)
    with (
        unreadable(
            f"data.path: {path} cannot be read as an idx file", *kinds, fix="Copy it again."
        ),
        gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file,
    ):
        zeros, kind, axes = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != _UBYTE:
            raise DataError(
                f"data.path: {path} is not an idx file of unsigned bytes. Convert it to one."
            )
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        room = path.stat().st_size * (_MAX_RATIO if path.suffix == ".gz" else 1)
        content = file.read(min(prod(shape), room) + 1)  # no more than it declares
    if len(content) != prod(shape) or len(content) == 0:
        found = f"more than {prod(shape):,}" if len(content) > prod(shape) else f"{len(content):,}"
        raise DataError(
            f"data.path: {path} has shape {shape}, so {prod(shape):,} bytes, but contains "
            f"{found}. Copy it again."
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def mnist(request: base.SourceRequest) -> base.SourceListing:
    """Open handwritten digits, 28×28 grey: 60,000 for training and 10,000 for testing."""
    return _idx_set(request, "mnist", "MNIST", names=tuple("0123456789"))


def fashion_mnist(request: base.SourceRequest) -> base.SourceListing:
    """Open images of clothes, 28×28 grey: 60,000 for training and 10,000 for testing."""
    return _idx_set(request, "fashion-mnist", "FashionMNIST", names=FASHION)


def cifar10(request: base.SourceRequest) -> base.SourceListing:
    """Open photographs of ten classes, 32×32 RGB: 50,000 for training and 10,000 for testing."""
    if request.split not in SPLITS:
        raise DataError(f"data.split is {request.split!r}. Choose one of {', '.join(SPLITS)}.")
    root = _root(request)
    inner = "cifar-10-batches-py"
    root = root.parent if root.name == inner else root

    if not any((root / inner).glob("*_batch*")):
        _download(request, "cifar10", "CIFAR10", root)

    def open_reader() -> base.ImageReader:
        from torchvision import datasets

        problem, fix = f"data.path: {root} has no complete CIFAR-10", "Download it again."
        with unreadable(problem, RuntimeError, OSError, fix=fix):
            data: Any = datasets.CIFAR10(str(root), train=request.split == "train")
        labels = one_hot(np.array(data.targets), len(data.classes))
        return base.array_reader(data.data, labels=(labels, tuple(data.classes)))

    files = sorted((root / inner).glob("*_batch*"))
    return base.SourceListing([base.stat_stamp(path) for path in files], open_reader)


def _idx_set(
    request: base.SourceRequest, source: str, torchvision_name: str, *, names: tuple[str, ...]
) -> base.SourceListing:
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


def _root(request: base.SourceRequest) -> Path:
    return (request.path or request.cache / "downloads").expanduser().absolute()


def _download(request: base.SourceRequest, source: str, torchvision_name: str, root: Path) -> None:
    fix = f"{root} has no copy. Download it yourself and set data.path (--data PATH) to its folder."
    if not request.download:
        raise NotAvailable(f"{source}: downloads are off, and {fix}")
    try:
        from torchvision import datasets

        dataset: Any = getattr(datasets, torchvision_name)
        dataset(str(root), train=request.split == "train", download=True)
    except (RuntimeError, OSError, ImportError) as error:  # OSError: also urllib's URLError
        raise DataError(f"{source}: the download failed ({reason(error)}), and {fix}") from error
