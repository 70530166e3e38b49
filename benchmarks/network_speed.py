"""Training steps and forward passes of the networks: ours, the peers, and the floor under ours."""

import argparse
from typing import Any

from race import PEERS_PYTHON, Contestant, race, table
from report import machine

from fromnoise.interop.diffusers import unet_config
from fromnoise.networks import DDPM

PAPER = {"network": "ddpm", "options": {"dropout": 0.1}, "batch_size": 16, "side": 32}
LINEAR = {"network": "linear_attention", "options": {}, "batch_size": 16, "side": 32}


def with_floor(name: str, work: str, options: dict[str, Any]) -> list[Contestant]:
    """Ours, and the floor under it."""
    floor = {"work": work, "options": options}
    return [Contestant("fromnoise", work, options), Contestant("floor", "floor:under", floor)]


def works(device: str) -> dict[str, list[Contestant]]:
    """The contestants of each work, ours first."""
    n = {"device": device}
    config = unet_config(DDPM(dropout=0.1))
    theirs = {"config": config, "batch_size": 16, "side": 32, **n}

    def diffusers(work: str, bf16: bool) -> Contestant:
        name = f"diffusers, {'bf16' if bf16 else 'fp32'}{' + channels_last' if bf16 else ''}"
        options = {**theirs, "bf16": bf16, "channels_last": bf16}
        return Contestant(name, f"peers:diffusers_{work}", options, PEERS_PYTHON)

    return {
        "paper, training step": [
            *with_floor("", "ours:training_step", {**PAPER, **n}),
            diffusers("training_step", False),
            diffusers("training_step", True),
        ],
        "paper, forward": [
            *with_floor("", "ours:forward", {**PAPER, **n}),
            diffusers("forward", False),
            diffusers("forward", True),
        ],
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    for title, contestants in works(a.device).items():
        if a.only is None or a.only in title:
            print(f"{title}; {machine()}", flush=True)
            print(table(race(contestants, rounds=a.rounds)), flush=True)


if __name__ == "__main__":
    main()
