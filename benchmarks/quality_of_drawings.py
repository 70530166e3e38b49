"""The Fréchet distance of drawn images, in the features of a judge."""

from pathlib import Path

import numpy as np

from fromnoise.evaluation import Interval, frechet_scores, moments_of
from fromnoise.evaluation.extractors import Extractor, in_parts
from fromnoise.evaluation.reference import Reference
from fromnoise.evaluation.set_metrics import BLOCKS


def distance(images: np.ndarray, reference: Reference, space: Extractor) -> Interval:
    """That of `fromnoise evaluate` (its `fid`), of uint8 (N, C, H, W)."""
    features = np.concatenate([part.features for _, part in in_parts(space, images)])
    blocks = [moments_of(block) for block in np.array_split(features, BLOCKS)]
    return frechet_scores(blocks, reference.mean, reference.covariance)[0]


def drawn(folder: Path) -> np.ndarray:
    """What `draw_shards` wrote."""
    with np.load(folder / "images.npz") as kept:
        return kept["images"]
