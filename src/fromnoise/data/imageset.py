"""`ImageSet`: decoded images with their labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class ImageSet:
    """Images of one size, with labels or without."""

    images: np.ndarray  # uint8 (N, C, H, W), read-only, mapped from the cache
    labels: np.ndarray | None  # int8 (N, K): +1 present, -1 absent, 0 not said; None: no labels
    label_names: tuple[str, ...]  # K names, () without labels
    fingerprint: str  # SHA-256 (hex) of images, labels and names: equal exactly where they are
    skipped: tuple[str, ...]  # "folder/name.png: reason" of every file that could not be read
    source: str  # a key of SOURCES

    def __len__(self) -> int:
        return len(self.images)
