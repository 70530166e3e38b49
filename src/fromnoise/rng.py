"""Derive random numbers from keys of integers and strings, so that no RNG state is stored.

Each draw has a key: (seed, step, purpose) in training, (seed of the image, t) in sampling. The same
key gives the same numbers, independent of earlier draws, the device, the batch and restarts.
Numbers are always drawn on the CPU.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from torch import Generator, Tensor

Key = SupportsIndex | str


def seed_of(*key: Key) -> int:
    """Return a 63-bit seed that depends on every part of the key and on their order.

    Integers of numpy and torch are the same as Python's. Raises TypeError for other numbers.
    """
    parts = tuple(str(k) if isinstance(k, str) else int(operator.index(k)) for k in key)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: Key) -> "Generator":
    """Return a new CPU generator, seeded by the key."""
    import torch  # seconds, and the data commands need none

    return torch.Generator().manual_seed(seed_of(*key))


def image_noise(seeds: Sequence[int], t: int, shape: Sequence[int], *key: Key) -> "Tensor":
    """Return standard normal noise, float32 (len(seeds), *shape), independent for each image.

    t: the timestep that the sampling step leaves, or 0 for the initial noise x_T. key: more parts
    of the key, for a step that draws more than once.
    """
    import torch

    return torch.stack([torch.randn(*shape, generator=generator(s, t, *key)) for s in seeds])


def require_unique_seeds(seeds: Sequence[int], captions: Sequence[str] | None = None) -> None:
    """Raise ValueError if a seed occurs twice with the same caption: both images would be equal."""
    counts = Counter(zip(seeds, captions or [""] * len(seeds), strict=True))
    for (seed, caption), count in counts.items():
        if count > 1:
            where = f" for {caption}" if caption else ""
            raise ValueError(f"seed {seed} is given twice{where}. Give each seed once.")
