"""Resident memory while training on 60,000 images, beyond the weights and the optimiser.

The images are random, 32x32 in colour (184 MB as uint8), read through the cache as any others are.
"""

import argparse
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
from report import machine, save

import fromnoise

BYTES_PER_PARAMETER = 4 * 5  # weights, their average, gradient, two moments
RECIPE = {
    "data": {"source": "npz"},
    "network": {"name": "ddpm", "channels": 64},
    "training": {"steps": 8, "batch_size": 64, "preview_every": 100, "checkpoint_every": 100},
}


def main() -> None:
    """Print and keep the figures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FROMNOISE_CACHE"] = str(Path(scratch) / "cache")
        images = np.lib.format.open_memmap(
            Path(scratch) / "images.npy", mode="w+", dtype=np.uint8, shape=(60_000, 32, 32, 3)
        )
        rng = np.random.default_rng(0)
        for i in range(0, len(images), 6000):
            images[i : i + 6000] = rng.integers(0, 256, images[i : i + 6000].shape, np.uint8)
        images.flush()
        del images
        run = fromnoise.train(RECIPE, out=Path(scratch) / "run", data=Path(scratch) / "images.npy")
        parameters = sum(p.numel() for p in run.model().denoiser.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    model = parameters * BYTES_PER_PARAMETER / 2**30
    print(f"training on 60,000 images; {machine()}")
    print(f"  peak resident memory {peak:.2f} GiB, of which model and optimiser {model:.2f} GiB,")
    print(f"  so {peak - model:.2f} GiB beyond them")
    save("memory", {"peak_gib": peak, "model_and_optimiser_gib": model})


if __name__ == "__main__":
    main()
