"""Statistics of 50,000 features of width 2,048, as they come, and the Fréchet distance: how long?

Both sets are random. The distance alone is what other programs compute; FID∞ and the intervals take
it twenty times more. Beside it: torch-fidelity's functions, of the same features.
"""

import argparse
import resource
import time

import numpy as np
import torch
from report import machine, save
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from fromnoise.evaluation import frechet_distance, frechet_scores, merged, moments_of

N, D, BATCH, BLOCKS = 50_000, 2048, 500, 20


def batches(seed: int, scale: float):
    """Features as an extractor would give them, some at a time."""
    rng = np.random.default_rng(seed)
    for _ in range(N // BATCH):
        yield rng.standard_normal((BATCH, D), dtype=np.float32) * np.float32(scale)


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="store_true", help="time torch-fidelity too")
    arguments = parser.parse_args()
    seconds = {"statistics": 0.0, "drawing": 0.0}
    per_block = N // BATCH // BLOCKS
    blocks, block, last = [], None, time.perf_counter()
    for i, batch in enumerate(batches(0, 1.0), start=1):
        drawn = time.perf_counter()
        part = moments_of(batch)
        block = part if block is None else merged(block, part)
        if i % per_block == 0:
            blocks.append(block)
            block = None
        seconds["drawing"] += drawn - last
        last = time.perf_counter()
        seconds["statistics"] += last - drawn
    other = np.eye(D) * 1.1
    started = time.perf_counter()
    whole = merged(*blocks)
    distance = frechet_distance(whole.mean, whole.covariance, np.zeros(D), other)
    seconds["distance"] = time.perf_counter() - started
    started = time.perf_counter()
    fid, at_infinity = frechet_scores(blocks, np.zeros(D), other)
    seconds["distance, limit and intervals"] = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    assert abs(fid.value - distance) < 1e-6 * distance
    print(f"{N:,} features of width {D:,}; {machine()}")
    for name, value in seconds.items():
        print(f"  {name:34} {value:8.1f} s")
    print(
        f"  statistics and distance together   {seconds['statistics'] + seconds['distance']:8.1f} s"
    )
    print(f"  peak resident memory               {peak:8.2f} GiB")
    print(f"  FID {fid.value:.3f}, of endlessly many {at_infinity.value:.3f}")
    figures = {"seconds": seconds, "peak_gib": peak}
    if arguments.peer:
        features = torch.from_numpy(np.concatenate(list(batches(0, 1.0))))
        started = time.perf_counter()
        statistics = fid_features_to_statistics(features)
        of_other = {"mu": np.zeros(D, dtype=np.float32), "sigma": other}
        theirs = fid_statistics_to_metric(statistics, of_other, verbose=False)
        figures["torch_fidelity_seconds"] = time.perf_counter() - started
        print(f"  torch-fidelity, the same           {figures['torch_fidelity_seconds']:8.1f} s")
        print(f"  its FID {theirs['frechet_inception_distance']:.3f}")
    save("evaluation", figures)


if __name__ == "__main__":
    main()
