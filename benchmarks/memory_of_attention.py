"""Measure the resident memory of training `dense_attention` at 64×64 with batch 6.

Its attention has 4,096 tokens at the outer level. If the attention weights were stored, one matrix
per head and image, they would take gigabytes.
"""

import argparse
import sys
from pathlib import Path

from report import machine, save
from worker import peak_gib

sys.path.insert(0, str(Path(__file__).parent / "contestants"))
import ours


def main() -> None:
    """Print and save the peak."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    network = "dense_attention"
    before = peak_gib("cpu")
    step = ours.training_step(network=network, options={}, batch_size=6, side=64)
    for _ in range(3):
        step.round()
    peak = peak_gib("cpu")
    print(f"training {network}, 64x64, batch 6, {step.how}; {machine()}")
    print(f"  peak resident memory {peak:.2f} GiB, of which {before:.2f} GiB were in use before")
    save(f"memory-{network}", {"peak_gib": peak, "before_gib": before})


if __name__ == "__main__":
    main()
