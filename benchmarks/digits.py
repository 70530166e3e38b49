"""Train a digits recipe, make as many images as there are digits, and compare the two sets.

Fréchet distance over the 64 pixels in [0, 1], leave-one-out 1-nearest-neighbour accuracy (0.5 is
indistinguishable), and the nearest training image of each sample. Seeds 0–1796, 50 DDIM steps.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from report import machine, save

import fromnoise
from fromnoise.evaluation import (
    copy_check,
    frechet_distance,
    gaussian_of,
    one_nearest_neighbour_accuracy,
    pixel_features,
)


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--run", type=Path, help="judge this finished run instead of training one")
    arguments = parser.parse_args()

    data = np.asarray(fromnoise.open_images("digits").images)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        run = arguments.run or Path(scratch) / "run"
        if arguments.run is None:
            fromnoise.train(arguments.recipe, out=run)
        trained = time.perf_counter()
        model = fromnoise.load(run)
        made = model.sample(range(len(data)), steps=50, sampler="ddim", batch_size=600).numpy()
        sampled = time.perf_counter()

    features, reference = pixel_features(made), pixel_features(data)
    copies = copy_check(made, data)
    figures = {
        "training_seconds": trained - start,
        "sampling_seconds": sampled - trained,
        "frechet_distance": frechet_distance(*gaussian_of(features), *gaussian_of(reference)),
        "one_nearest_neighbour_accuracy": one_nearest_neighbour_accuracy(features, reference),
        "exact_copies": copies.exact_copies,
        "smallest_distance_to_data": copies.smallest_distance,
        "share_nearer_than_1_percent_of_data": copies.share_below_threshold,
    }
    print(f"{arguments.recipe}; {len(made)} samples; {machine()}")
    for name, value in figures.items():
        print(f"  {name.replace('_', ' '):40} {value:8.3f}")
    if arguments.run is None:
        save(arguments.recipe, figures)


if __name__ == "__main__":
    main()
