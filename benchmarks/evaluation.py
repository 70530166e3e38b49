"""Time the mean, covariance and Fréchet distance of 50,000 features of width 2,048.

This compares fromnoise with torch-fidelity (of the extra `eval`). Both get the same random
features; feature extraction is excluded. fromnoise computes in blocks, torch-fidelity all at once.
A third row is what `fromnoise evaluate` computes: the distance, its limit for infinitely many
images, and an interval of each.
"""

import argparse

from race import Contestant, race, table
from report import machine, save_race

FEATURES = {"count": 50_000, "width": 2048}


def main() -> None:
    """Print and save the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    contestants = [
        Contestant("fromnoise", "ours:frechet", FEATURES),
        Contestant("torch-fidelity", "peers:fidelity_frechet", FEATURES),
        Contestant("fromnoise, with intervals", "ours:frechet_intervals", FEATURES),
    ]
    measured = race(contestants, rounds=rounds)
    title = f"{FEATURES['count']:,} features of width {FEATURES['width']:,}"
    print(f"{title}; {machine()}")
    print(table(measured))
    save_race("evaluation", {title: measured})


if __name__ == "__main__":
    main()
