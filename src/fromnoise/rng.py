"""Draw random numbers from keys of integers and strings, without the state of a generator.

In sampling the key is (seed of the image, t). In training it is (seed, step, purpose) and the
position of an image in the batch. The same key gives the same numbers: they do not depend on
earlier draws, on the batch or its parts, or on a restart.

There are two sources. Normal numbers come from a torch generator for each image, on the CPU. All
others are hashes of (key, counter), computed for many counters at once.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

import numpy as np

if TYPE_CHECKING:
    from torch import Generator, Tensor

Key = SupportsIndex | str
DRAWS = 2  # the version of the draws of a training; a checkpoint has its number
FEW, ROUNDS = 2**16, 8  # of a permutation: the largest size that is sorted, the Feistel rounds
WEYL, MIX_1, MIX_2 = (
    np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def seed_of(*key: Key) -> int:
    """Return a 63-bit seed that depends on every part of the key and on their order.

    Integers of numpy and torch are the same as Python's. Raises TypeError for other numbers.
    """
    parts = tuple(str(k) if isinstance(k, str) else int(operator.index(k)) for k in key)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: Key) -> "Generator":
    """Return a new CPU generator, seeded by the key."""
    import torch  # takes seconds, and the data commands do not need it

    return torch.Generator().manual_seed(seed_of(*key))


# ---- normal numbers, from a generator for each image ---------------------------------------------


def normal(shape: Sequence[int], keys: Iterable[Sequence[Key]]) -> "Tensor":
    """Return standard normal numbers, float32 (N, *shape), each row from the generator of a key."""
    import torch

    seeds = [seed_of(*key) for key in keys]
    rows, each = torch.empty(len(seeds), *shape), torch.Generator()
    for row, seed in zip(rows, seeds, strict=True):
        row.normal_(generator=each.manual_seed(seed))
    return rows


def image_noise(seeds: Sequence[int], t: int, shape: Sequence[int], *key: Key) -> "Tensor":
    """Return standard normal noise, float32 (len(seeds), *shape), independent for each image.

    t: the timestep at which the sampling step starts, or 0 for the initial noise x_T. key: more
    parts of the key, for a step that draws more than once.
    """
    return normal(shape, [(seed, t, *key) for seed in seeds])


# ---- hashes, of many counters at once ------------------------------------------------------------


def hashes(seed: int, counters: np.ndarray) -> np.ndarray:
    """Return 64 random bits for each counter, uint64 of any shape; int64 counters ≥ 0.

    The outputs of SplitMix64 (Steele, Lea and Flood 2014), which can be computed in any order.
    """
    x = np.uint64(seed) + (counters.astype(np.uint64) + np.uint64(1)) * WEYL
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


def permuted(index: np.ndarray, size: int, *key: Key) -> np.ndarray:
    """Map each index by a random permutation of 0..size−1: int64 (N,).

    Up to `FEW` numbers are sorted by their hashes. A larger permutation needs no table: a Feistel
    network (Luby and Rackoff 1988) permutes 0..2^b − 1, the smallest such range with at least
    `size` numbers. A result outside of 0..size−1 is permuted again until it is inside (cycle
    walking, Black and Rogaway 2002).
    """
    if size <= FEW:
        return _sorted_by_hash(size, seed_of(*key))[index]
    bits = (size - 1).bit_length()
    low = np.uint64(bits // 2)  # bits of the right half
    masks = [(np.uint64(1) << n) - np.uint64(1) for n in (np.uint64(bits) - low, low)]
    seeds = [seed_of(*key, round_) for round_ in range(ROUNDS)]
    x = index.astype(np.uint64)
    walking = np.arange(len(x))
    while len(walking):
        halves = [x[walking] >> low, x[walking] & masks[1]]
        for i, seed in enumerate(seeds):
            halves[i % 2] ^= hashes(seed, halves[1 - i % 2]) & masks[i % 2]
        x[walking] = (halves[0] << low) | halves[1]
        walking = walking[x[walking] >= size]
    return x.astype(np.int64)


@lru_cache(maxsize=4)  # two epochs, and the strata of a batch
def _sorted_by_hash(size: int, seed: int) -> np.ndarray:
    return np.argsort(hashes(seed, np.arange(size)))


class BatchDraws(NamedTuple):
    """The random numbers of a training step for some images of its batch.

    Each number is a function of (seed, step, purpose, position), so a part of a batch is drawn
    without the rest. positions: of the images in the batch, int64 (B,).
    """

    seed: int
    step: int
    batch_size: int  # of the whole batch
    positions: np.ndarray

    @classmethod
    def of(cls, seed: int, step: int, batch_size: int) -> "BatchDraws":
        """Return the draws of a whole batch."""
        return cls(seed, step, batch_size, np.arange(batch_size))

    def hashes(self, purpose: str, columns: int = 1) -> np.ndarray:
        """Return 64 random bits, uint64 (B, columns)."""
        counters = self.positions[:, None] * columns + np.arange(columns)
        return hashes(seed_of(self.seed, self.step, purpose), counters)

    def uniform(self, purpose: str, columns: int = 1) -> np.ndarray:
        """Return uniform numbers in [0, 1), float64 (B, columns)."""
        return (self.hashes(purpose, columns) >> np.uint64(11)) * 2.0**-53

    def normal(self, purpose: str, shape: Sequence[int]) -> "Tensor":
        """Return standard normal numbers, float32 (B, *shape), on the CPU."""
        return normal(shape, [(self.seed, self.step, purpose, i) for i in self.positions])

    def keys(self, purpose: str) -> "Tensor":
        """Return a key for each image, int64 (B,), for numbers that are drawn on a device."""
        import torch

        return torch.from_numpy(self.hashes(purpose)[:, 0].view(np.int64))

    def strata(self, purpose: str) -> np.ndarray:
        """Return a different random number in 0..batch_size−1 for each image: int64 (B,)."""
        return permuted(self.positions, self.batch_size, self.seed, self.step, purpose)


def require_unique_seeds(seeds: Sequence[int], captions: Sequence[str] | None = None) -> None:
    """Raise ValueError if a seed occurs twice with the same caption: both images would be equal."""
    counts = Counter(zip(seeds, captions or [""] * len(seeds), strict=True))
    for (seed, caption), count in counts.items():
        if count > 1:
            where = f" for {caption}" if caption else ""
            raise ValueError(f"seed {seed} is given twice{where}. Give each seed once.")
