"""The stored values of images: 8 or 16 bits, or floats, and which of them are black and white.

| `data.depth` | stored as | black and white |
|---|---|---|
| 8 | uint8 | 0 and 255 |
| 16 | uint16 | 0 and `data.white`, by default 65535 |
| float | float32 | `data.range`, by default 0 and 1 |

In the model black is −1 and white is 1: x = 2·(v − black)/(white − black) − 1, computed in float32.
Integers come back exactly. Floats do to about 6e-8 of the range.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Depth = Literal[8, 16, "float"]
NAMES: dict[Depth, str] = {8: "8 bits", 16: "16 bits", "float": "floats"}
DTYPES: dict[Depth, str] = {8: "uint8", 16: "uint16", "float": "float32"}
DEEPEST = 65535  # white of 16 bits
AT_ONCE = 256  # images that are converted at a time


@dataclass(frozen=True)
class Levels:
    """The depth of stored images, and their values of black and white."""

    depth: Depth = 8
    low: float = 0
    high: float = 255

    @classmethod
    def of(
        cls, depth: Depth, *, white: int | None = None, range: tuple[float, float] | None = None
    ) -> "Levels":
        """Return the levels of `data.depth`, `data.white` and `data.range`."""
        if depth == "float":
            return cls(depth, *map(float, range or (0, 1)))
        return cls(depth, 0, 255 if depth == 8 else white or DEEPEST)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(DTYPES[self.depth])

    def to_bytes(self, images: np.ndarray) -> np.ndarray:
        """Return the images as uint8: black is 0, white 255, rounded. 8 bits stay as they are."""
        if self.depth == 8:
            return images
        as_bytes = np.empty(images.shape, np.uint8)
        for i in range(0, len(images), AT_ONCE):
            scaled = (images[i : i + AT_ONCE].astype(np.float64) - self.low) * 255
            np.clip(np.rint(scaled / (self.high - self.low)), 0, 255, out=scaled)
            as_bytes[i : i + AT_ONCE] = scaled
        return as_bytes

    def __str__(self) -> str:
        return f"{NAMES[self.depth]}, black {self.low:g} and white {self.high:g}"


BYTES = Levels()
