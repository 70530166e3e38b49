"""The modules of `benchmarks/` are plain scripts: they import each other by name alone."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from fromnoise.classifier.classifier import Classifier, ClassifierSpec, build_network

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "contestants")]


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.tobytes())


@pytest.fixture
def garments(tmp_path) -> Path:
    """Noise in the files of Fashion-MNIST."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 60), ("t10k", 40)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{split}-images-idx3-ubyte", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return folder


@pytest.fixture
def classifier(tmp_path) -> Path:
    """One of garments that has learned nothing."""
    spec = ClassifierSpec(
        kind="classes", label_names=tuple("0123456789"), channels=1, size=(28, 28), stem="small"
    )
    Classifier(build_network(spec), spec).save(tmp_path / "classifier")
    return tmp_path / "classifier"
