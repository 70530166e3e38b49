"""What the same noise became at several moments of a training: the arrays behind the pictures.

previews/000500.npz    EMA, raw: uint8 (N, C, H, W), of the averaged weights and of the raw ones
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fromnoise.explaining import ConfigError

FOLDER = "previews"


def write_preview(file: Path, *, ema: np.ndarray, raw: np.ndarray) -> None:
    """Write the images, uint8 (N,C,H,W) each; where that is cut short there is no file."""
    writing = file.with_suffix(".writing")
    try:
        with writing.open("wb") as opened:
            np.savez_compressed(opened, EMA=ema, raw=raw)
        writing.replace(file)
    finally:
        writing.unlink(missing_ok=True)


def read_preview(file: Path) -> np.ndarray:
    """The images of the averaged weights: uint8 (N,C,H,W). ConfigError for a damaged file."""
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            images = arrays["EMA"]
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise ValueError(f"EMA is {images.dtype} {images.shape}")
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{FOLDER}/{file.name} cannot be read: {detail}") from error
    return images
