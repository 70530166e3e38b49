"""Train a recipe, and compare its samples with real images; also compare real with real images.

The scores are the Fréchet distance of pixels in [0, 1], the leave-one-out 1-nearest-neighbour
accuracy (0.5 is indistinguishable), and the copies of training images. Seeds from 0, 50 DDIM steps.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from report import machine, save
from two_sample import one_nearest_neighbour_accuracy

import fromnoise
from fromnoise.evaluation.copies import check_copies, copy_verdict
from fromnoise.evaluation.metrics import frechet_distance, moments_of


def compare(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Compare two sets of images, uint8 (N,C,H,W), with about the same N."""
    a, b = (images.reshape(len(images), -1) / 255 for images in (a, b))
    of_a, of_b = moments_of(a), moments_of(b)
    return {
        "frechet_distance": frechet_distance(
            of_a.mean, of_a.covariance, of_b.mean, of_b.covariance
        ),
        "one_nearest_neighbour_accuracy": one_nearest_neighbour_accuracy(a, b),
    }


def main() -> None:
    """Print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument(
        "--run", type=Path, help="evaluate this finished run instead of training one"
    )
    parser.add_argument("--num", type=int, help="samples and real images (default: all images)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        folder = arguments.run or Path(scratch) / "run"
        if arguments.run is None:
            fromnoise.train(arguments.recipe, out=folder)
        trained = time.perf_counter()
        run = fromnoise.Run(folder)
        if not run.finished:
            raise SystemExit(f"{folder} is not finished. Resume the run first.")
        model, recipe = run.model(), run.recipe()
        wanted = recipe.data.model_dump(exclude={"source", "path", "flip", "labels", "holdout"})
        data = np.asarray(
            fromnoise.open_images(recipe.data.source, recipe.data.path, **wanted).images
        )
        n = arguments.num or len(data)
        made = model.sample(range(n), steps=50, sampler="ddim", batch_size=128).numpy()
        sampled = time.perf_counter()

    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).numpy()
    copies = check_copies(made, data)
    near = copies.spaces["pixels"]
    half = min(n, len(data) // 2)
    figures = {
        "training_seconds": trained - start,
        "sampling_seconds": sampled - trained,
        "samples": float(n),
        **compare(made, data[chosen[:n]]),
        "exact_copies": float(copies.exact.sum()),
        "copies": float(copies.flagged.sum()),
        "share_of_data_that_would_pass_for_copies": float(copies.held_out_flagged.mean()),
        "median_distance_to_data": float(np.median(near.samples.distance)),
        "real_median_distance_to_data": float(np.median(near.held_out.distance)),
    }
    real = compare(data[chosen[:half]], data[chosen[half : 2 * half]])
    figures |= {f"real_{name}": value for name, value in real.items()}
    print(f"{arguments.recipe}; {machine()}")
    for name, value in figures.items():
        print(f"  {name.replace('_', ' '):40} {value:10.3f}")
    print(copy_verdict(copies))
    if arguments.run is None:
        save(arguments.recipe, figures)


if __name__ == "__main__":
    main()
