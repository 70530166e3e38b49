"""Hold some images out of the training: `data.holdout`. Their loss tells when a model memorises."""

import hashlib
from dataclasses import replace
from typing import Literal

import numpy as np

from fromnoise.data.dataset import ImageSet
from fromnoise.data.errors import DataError

SHARE, LEAST, MOST = 0.05, 50, 500  # of `auto`: the share, and the number of images
FEWEST = 20  # images, of which `auto` holds some out
COARSE = 8  # pixels a side, in which near-duplicates are looked for
NEAR = 4.0  # grey levels out of 255, root mean square, between two near-duplicates
GROUP = 10  # images: a larger group of near-duplicates is trained on


def split_holdout(data: ImageSet, holdout: float | Literal["auto"]) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on, and those held out.

    holdout: a share of the images; `auto` is 5 %, but 50 to 500 images, and at most a fifth.

    The images are taken in the order of the SHA-256 of their pixels, so that the order of the files
    does not matter. An image is held out together with its
    near-duplicates, those of these, and so on: images that differ by at most `NEAR`, seen in
    `COARSE` × `COARSE` pixels. A group of more than `GROUP` is trained on.
    Raises DataError if nothing is held out or left.
    """
    count = len(data)
    if holdout == "auto":
        if count < FEWEST:
            raise DataError(
                f"data.holdout = auto needs {FEWEST} images, but there are {count}. Remove it, or "
                "give a share, as in data.holdout=0.1."
            )
        wanted = min(max(round(SHARE * count), LEAST), MOST, count // 5)
    else:
        wanted = round(holdout * count)
    if not 0 < wanted < count:
        what = "nothing" if wanted == 0 else f"all {count} images"
        raise DataError(
            f"data.holdout = {holdout} of {count} images holds {what} out. Give another share."
        )
    coarse = in_coarse_pixels(data.levels.to_bytes(data.images))
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in data.images]
    held = np.zeros(count, dtype=bool)
    seen = np.zeros(count, dtype=bool)
    for i in sorted(range(count), key=hashes.__getitem__):
        if held.sum() >= wanted:
            break
        if not seen[i]:
            group = near_duplicates(coarse, i)
            seen[group] = True
            held[group] = len(group) <= min(GROUP, wanted, count - 1 - held.sum())
    if not held.any():
        raise DataError(
            f"data.holdout = {holdout}: every image has too many near-duplicates. Remove it."
        )
    return _subset(data, ~held), _subset(data, held)


def in_coarse_pixels(images: np.ndarray) -> np.ndarray:
    """Return the means of COARSE × COARSE blocks: float32 (N, D), scaled for `near_duplicates`.

    images: (N, C, H, W) with grey levels 0..255. The distance of two rows is the root mean square
    of the differences. Blocks differ by a pixel where their number does not divide the side.
    """
    edges = [np.arange(min(side, COARSE)) * side // min(side, COARSE) for side in images.shape[2:]]
    sizes = [np.diff(edge, append=side) for edge, side in zip(edges, images.shape[2:], strict=True)]
    area = np.outer(*sizes)

    def means(image: np.ndarray) -> np.ndarray:
        rows = np.add.reduceat(image, edges[0], axis=1, dtype=np.float32)
        return (np.add.reduceat(rows, edges[1], axis=2) / area).ravel()

    # one by one: a float32 copy of all may not fit into memory
    coarse = np.stack([means(image) for image in images]).astype(np.float32)
    return coarse / np.float32(coarse.shape[1] ** 0.5)


def near_duplicates(coarse: np.ndarray, first: int) -> np.ndarray:
    """Return the rows that are near to `first`, or to one of these, and so on: int64, rising."""
    group, new = {first}, [first]
    while new and len(group) <= GROUP:
        difference = coarse - coarse[new.pop()]
        near = np.flatnonzero(np.einsum("nd,nd->n", difference, difference) <= NEAR**2)
        new += set(near.tolist()) - group
        group.update(near.tolist())
    return np.array(sorted(group))


def _subset(data: ImageSet, rows: np.ndarray) -> ImageSet:
    chosen = np.flatnonzero(rows)
    text = f"{data.fingerprint} {hashlib.sha256(chosen.tobytes()).hexdigest()}"
    return replace(
        data,
        images=data.images[chosen],
        labels=None if data.labels is None else data.labels[chosen],
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )
