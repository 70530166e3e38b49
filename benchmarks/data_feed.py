"""Compare loading batches of 60,000 colour images of 64×64 pixels: fromnoise and torchvision.

Both return batches of 64, in random order, half of them mirrored, float32 in [−1, 1]. fromnoise
gathers them from the memory-mapped cache in the training process. torchvision uses an
`ImageFolder` with the usual transforms in a `DataLoader` with 2 worker processes. A round is an
epoch for fromnoise, and 6,400 images for torchvision; the workers persist, and are idle between
rounds. All files are in the page cache.

The images are PNG files, generated once in a scratch folder: 30 random colours, interpolated, with
noise, so that the files are as large as those of photographs of 64×64 pixels.
"""

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from race import PEERS_PYTHON, Contestant, race, table
from report import machine, save_race

from fromnoise.data import open_images

IMAGES, SIDE, BATCH, ROUND_OF_PEER = 60_000, 64, 64, 6_400


def write_picture(path: Path, seed: int) -> None:
    """Write a PNG file of about 8 kB; each seed gives a different image."""
    rng = np.random.default_rng(seed)
    few = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(few.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + rng.normal(0, 5, smooth.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


def write_pictures(folder: Path, first: int, count: int) -> None:
    """Write the missing images to `folder`/all."""
    (folder / "all").mkdir(parents=True, exist_ok=True)  # `ImageFolder` needs a class folder
    for seed in range(first, first + count):
        path = folder / "all" / f"{seed:05d}.png"
        if not path.exists():
            write_picture(path, seed)


def main() -> None:
    """Print and save the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    scratch = Path(tempfile.gettempdir()) / "fromnoise-data-feed"
    parser.add_argument("--scratch", type=Path, default=scratch, help="1.5 GB, kept for later runs")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    pictures, cache = arguments.scratch / "pictures", arguments.scratch / "cache"
    print(f"pictures and cache in {arguments.scratch}", flush=True)
    with ProcessPoolExecutor() as processes:
        part = 1000
        starts = range(0, IMAGES, part)
        tasks = [processes.submit(write_pictures, pictures, start, part) for start in starts]
        for task in tasks:
            task.result()
    open_images("folder", pictures, cache=cache)  # decodes the images in the first run

    common = {"folder": str(pictures), "batch_size": BATCH}
    contestants = [
        Contestant("fromnoise", "ours:data_feed", {**common, "cache": str(cache)}),
        Contestant(
            "torchvision, 2 workers",
            "peers:torchvision_feed",
            {**common, "side": SIDE, "images": ROUND_OF_PEER, "workers": 2},
            PEERS_PYTHON,
        ),
    ]
    measured = race(contestants, rounds=arguments.repeats)
    title = f"{IMAGES:,} images of {SIDE}x{SIDE}, batches of {BATCH}"
    print(f"data feed, {title}; {machine()}")
    print(table(measured))
    save_race("data_feed", {title: measured})


if __name__ == "__main__":
    main()
