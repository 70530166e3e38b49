"""Mean and covariance of 50,000 features of width 2,048, and the Fréchet distance of them.

Ours beside torch-fidelity's, which is of the extra `eval`. The features are random and the same for
both, and nothing is extracted. Ours takes them in blocks and theirs all at once. What `fromnoise
evaluate` prints, the distance with its limit of endlessly many images and intervals of both, is
measured beside it.
"""

import argparse

from race import Contestant, race, table
from report import machine, save_race

FEATURES = {"count": 50_000, "width": 2048}


def main() -> None:
    """Print and keep the rates."""
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
