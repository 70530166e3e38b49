"""The Fréchet distance of images in the features of a judge, and one table of several sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.evaluation import Interval, frechet_scores, moments_of
from fromnoise.evaluation.extractors import Extractor, in_parts
from fromnoise.evaluation.reference import Reference
from fromnoise.evaluation.set_metrics import BLOCKS

HEAD = f"{'':10} {'parameters':>10} {'training':>26} {'drawing':>32}  Fréchet distance (95 %)"


def distance(images: np.ndarray, reference: Reference, space: Extractor) -> Interval:
    """That of `fromnoise evaluate` (its `fid`), of uint8 (N, C, H, W)."""
    features = np.concatenate([part.features for _, part in in_parts(space, images)])
    blocks = [moments_of(block) for block in np.array_split(features, BLOCKS)]
    return frechet_scores(blocks, reference.mean, reference.covariance)[0]


def drawn(folder: Path) -> np.ndarray:
    """What `draw_shards` wrote."""
    with np.load(folder / "images.npz") as kept:
        return kept["images"]


def in_words(found: Interval) -> str:
    """A distance and its interval."""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def row(name: str, trained: Mapping[str, Any], made: Mapping[str, Any], comes_to: Interval) -> str:
    """A line under HEAD."""
    learned = trained["steps"] * trained["batch_size"] / trained["seconds"]
    training = f"{trained['steps']} x {trained['batch_size']}, {learned:.1f} images/s"
    drawing = (
        f"{made['ddim_steps']} steps, {made['seconds']:.0f} s, "
        f"{made['count'] / made['seconds']:.1f} images/s"
    )
    return (
        f"{name:10} {trained['parameters']:10,} {training:>26} {drawing:>32}  {in_words(comes_to)}"
    )
