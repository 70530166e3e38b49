"""Randomness as a function of integers, so that nothing about it needs to be stored.

Every draw names what it is for by a key: (seed, step, purpose) in training, (seed of the image, t)
in sampling. The same key gives the same numbers, whatever was drawn before, on which device, in
which batch or after how many restarts. Numbers are always drawn on the CPU.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

Key = int | str


def seed_of(*key: Key) -> int:
    """A 63-bit seed that depends on every part of the key and on their order."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: Key) -> torch.Generator:
    """A fresh CPU generator for this key."""
    return torch.Generator().manual_seed(seed_of(*key))


def image_noise(seeds: Sequence[int], t: int, shape: Sequence[int], *key: Key) -> Tensor:
    """Standard normal noise for each image alone: float32 (len(seeds), *shape).

    t names the step that the noise is for: the step that leaves t, or 0 for the start x_T. key:
    what else it is for, where a step needs more than one.
    """
    return torch.stack([torch.randn(*shape, generator=generator(int(s), t, *key)) for s in seeds])


def require_unique_seeds(seeds: Sequence[int], words: Sequence[str] | None = None) -> None:
    """Raise ValueError where a seed comes twice, under the same words if there are any.

    Its image would be written over by another that is the same.
    """
    asked = list(zip(seeds, words or [""] * len(seeds), strict=True))
    if repeated := [(seed, said) for (seed, said), times in Counter(asked).items() if times > 1]:
        seed, said = repeated[0]
        alike = f" for {said}" if said else ""
        raise ValueError(f"seed {seed} is there twice{alike}, for the same image; name it once")
