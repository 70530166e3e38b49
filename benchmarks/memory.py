"""Measure the resident memory of training `fashion-mnist`, beyond weights and optimizer.

The 60,000 images are random, 28×28 grey, read through the cache like any others. The rest of the
memory is torch itself, the activations of a batch, and the mapped part of the images.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from report import machine, save
from worker import peak_gib

import fromnoise

BYTES_PER_PARAMETER = 4 * 5  # weights, their average, gradient, two moments
OVERRIDES = {"training.steps": 20, "training.preview_every": 20, "training.checkpoint_every": 20}


def main() -> None:
    """Print and save the figures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FROMNOISE_CACHE"] = str(Path(scratch) / "cache")
        images = np.lib.format.open_memmap(
            Path(scratch) / "images.npy", mode="w+", dtype=np.uint8, shape=(60_000, 28, 28, 1)
        )
        rng = np.random.default_rng(0)
        for i in range(0, len(images), 6000):
            images[i : i + 6000] = rng.integers(0, 256, images[i : i + 6000].shape, np.uint8)
        images.flush()
        del images
        before = peak_gib("cpu")
        run = fromnoise.train(
            "fashion-mnist",
            data=Path(scratch) / "images.npy",
            out=Path(scratch) / "run",
            overrides=OVERRIDES,
        )
        parameters = sum(p.numel() for p in run.model().denoiser.parameters())
    peak = peak_gib("cpu")
    model = parameters * BYTES_PER_PARAMETER / 2**30
    print(f"training on 60,000 images; {machine()}")
    print(f"  peak resident memory {peak:.2f} GiB: {model:.2f} GiB of model and optimizer, and")
    print(f"  {peak - model:.2f} GiB of other memory; {before:.2f} GiB were in use before training")
    save("memory", {"peak_gib": peak, "model_and_optimiser_gib": model, "before_gib": before})


if __name__ == "__main__":
    main()
