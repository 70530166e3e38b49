"""Measure training steps, forward passes and sampling of networks, also in other programs.

The other programs run as published: diffusers and denoising-diffusion-pytorch with their defaults.
If no library has a network, its published form runs, eager in float32. The floor is the time of
the convolutions and matrix products of fromnoise alone. On a GPU all run in bf16. The results are
saved to results/network_speed.json (of a GPU, network_speed_cuda.json); with `--only`, the other
rows in the file stay. `--profile FILE` writes a profile of three steps of fromnoise instead.
`--computations` measures steps of fromnoise in each precision and memory layout, with a quarter of
each batch, for the table in src/fromnoise/model/precision.py. It saves nothing.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from race import PEERS_PYTHON, Contestant, Measured, Worker, race, ratios, table
from report import machine, refuse_another_machine, save_race
from table import FLOOR, over
from utilisation import operations, utilisation

from fromnoise.config.recipe import load_recipe
from fromnoise.interop.diffusers import unet_config
from fromnoise.networks import DDPM

KINDS = {"training_step": "training step", "forward": "forward pass"}
STEPS_ON_GPU = 20  # per round, since one takes milliseconds


class Rival(NamedTuple):
    """Another program with the same network.

    work: the name of a function in contestants/, in which {} is the kind of work. own: arguments
    that replace `network` and `options`; None keeps these.
    """

    name: str
    work: str
    own: dict[str, Any] | None = None
    python: Path = Path(sys.executable)


class Network(NamedTuple):
    """A network of fromnoise, its batch, and the other programs that have it."""

    title: str
    network: str
    options: dict[str, Any]
    batch_size: int
    side: int
    rivals: tuple[Rival, ...]


class Race(NamedTuple):
    """The contestants, fromnoise first, and a function that describes the figures of fromnoise."""

    contestants: list[Contestant]
    say: Callable[[Measured], str]


class Sampling(NamedTuple):
    """A network, the images that each program samples from it per round, and the sampler."""

    network: Network
    images: int
    sampler: str
    steps: int


def diffusers(options: dict[str, Any], *, bf16: bool, channels_last: bool) -> Rival:
    """Return the network of diffusers with the same shape."""
    name = f"diffusers, {'bf16' if bf16 else 'fp32'}{' + channels_last' if channels_last else ''}"
    own = {"config": unet_config(DDPM(**options)), "bf16": bf16, "channels_last": channels_last}
    return Rival(name, "peers:diffusers_{}", own, PEERS_PYTHON)


def lucidrains(*, bf16: bool) -> Rival:
    """Return the network of lucidrains, with the equations of the default `linear_attention`."""
    own = {"options": {"dim": 64}, "bf16": bf16}
    return Rival(
        f"lucidrains, {'bf16' if bf16 else 'fp32'}", "peers:lucidrains_{}", own, PEERS_PYTHON
    )


def ours(name: str, network: str, options: dict[str, Any]) -> Rival:
    """Return another network of fromnoise."""
    return Rival(name, "ours:{}", {"network": network, "options": options})


PLAIN = Rival("published form, fp32", "plain:{}")
PAPER: dict[str, Any] = {"dropout": 0.1}
PATCHES = {  # compared with the network of `fashion-mnist`
    "image_channels": 1,
    "patch": 2,
    "channels": 64,
    "multipliers": [1, 2],
    "attention_levels": [],
    "dropout": 0.0,
    "groups": 8,
}
MENDED = {"image_channels": 1, "time": "projected", "attention_form": "residual"}


def networks(device: str) -> list[Network]:
    """Return the networks to measure on a device."""
    paper, linear = "the paper's network", "`linear_attention`"
    if device != "cpu":
        layouts = [diffusers(PAPER, bf16=True, channels_last=last) for last in (False, True)]
        return [
            Network(paper, "ddpm", PAPER, 128, 32, tuple(layouts)),
            Network(linear, "linear_attention", {}, 128, 32, (lucidrains(bf16=True),)),
        ]
    forms = [diffusers(PAPER, bf16=False, channels_last=False)]
    forms += [diffusers(PAPER, bf16=True, channels_last=last) for last in (False, True)]
    linear_forms = [lucidrains(bf16=fast) for fast in (False, True)]
    garments = {**load_recipe("fashion-mnist").network.options, "image_channels": 1}
    patches = [
        ours(
            f"patch 2, 64 x [1, 2], blocks: {blocks}", "ddpm", {**PATCHES, "num_res_blocks": blocks}
        )
        for blocks in (2, 1)
    ]
    return [
        Network(paper, "ddpm", PAPER, 16, 32, tuple(forms)),
        Network(linear, "linear_attention", {}, 16, 32, tuple(linear_forms)),
        Network("`dense_attention`", "dense_attention", {}, 2, 64, (PLAIN,)),
        Network("`stacked`, as published", "stacked", {"image_channels": 1}, 8, 32, (PLAIN,)),
        Network("`stacked`, corrected", "stacked", MENDED, 8, 32, (PLAIN,)),
        Network("`context`", "context", {"cond_dim": 24}, 8, 64, (PLAIN,)),
        Network("the network of `fashion-mnist`", "ddpm", garments, 64, 28, tuple(patches)),
    ]


def optimizers(device: str) -> dict[str, Race]:
    """Compare steps of Adam and of Muon, with a small and with a large batch."""
    one, found = networks(device)[-1], {}
    for batch_size in (32, 256):
        given = {"network": one.network, "options": one.options, "side": one.side}
        given |= {"batch_size": batch_size, "device": device}
        contestants = [
            Contestant(name, "ours:training_step", {**given, "optimizer": name})
            for name in ("adam", "muon")
        ]
        title = f"{one.title}, {one.side}x{one.side}, batch {batch_size}: step of an optimiser"
        found[title] = Race(contestants, lambda _: "All rows are compared with Adam.")
    return found


def samplings(device: str) -> list[Sampling]:
    """Return what to sample on a device: DDIM with the two networks that a library has too."""
    paper, linear = networks(device)[:2]
    if device == "cpu":
        return [Sampling(one, one.batch_size, "ddim", 20) for one in (paper, linear)]
    alone = paper._replace(batch_size=512, rivals=())
    return [
        *(Sampling(one, 4 * one.batch_size, "ddim", 20) for one in (paper, linear)),
        Sampling(alone, 2048, "dpm++", 20),
    ]


def races(device: str) -> dict[str, Race]:
    """Return every race by its title."""
    found = {}
    for one in networks(device):
        for kind, name in KINDS.items():
            title = f"{one.title}, {one.side}x{one.side}, batch {one.batch_size}: {name}"
            found[title] = of_network(one, kind, device)
    for drawn in samplings(device):
        one = drawn.network
        title = (
            f"{one.title}, {one.side}x{one.side}, batch {one.batch_size}: "
            f"sampling in {drawn.steps} {drawn.sampler} steps"
        )
        found[title] = of_sampling(drawn, device)
    return found | (optimizers(device) if device == "cpu" else {})


def of_network(one: Network, kind: str, device: str) -> Race:
    """Return the race of fromnoise, its floor and the other programs."""
    times = 1 if device == "cpu" else STEPS_ON_GPU
    shape = {"batch_size": one.batch_size, "side": one.side, "device": device}
    same = {"network": one.network, "options": one.options, **shape}
    contestants = [
        Contestant("fromnoise", f"ours:{kind}", same, times=times),
        Contestant(
            FLOOR,
            "floor:under",
            {"work": f"ours:{kind}", "options": same},
            times=times,
            like="fromnoise",
        ),
    ]
    for rival in one.rivals:
        given = same if rival.own is None else {**rival.own, **shape}
        work = rival.work.format(kind)
        contestants.append(Contestant(rival.name, work, given, rival.python, times))

    def say(ours: Measured) -> str:
        flop = operations(
            network=one.network,
            options=one.options,
            side=one.side,
            training=kind == "training_step",
        )
        return f"fromnoise reaches {utilisation(flop * median(ours.rates), device)}."

    return Race(contestants, say)


def of_sampling(drawn: Sampling, device: str) -> Race:
    """Return the race of fromnoise and the other programs."""
    one = drawn.network
    shape = {
        "batch_size": one.batch_size,
        "side": one.side,
        "images": drawn.images,
        "steps": drawn.steps,
        "device": device,
    }
    same = {"network": one.network, "options": one.options, "sampler": drawn.sampler, **shape}
    contestants = [
        Contestant("fromnoise", "ours:sampling", same),
        *(
            Contestant(
                rival.name, rival.work.format("sampling"), {**rival.own, **shape}, rival.python
            )
            for rival in one.rivals
            if rival.own is not None  # the other rivals have no sampler
        ),
    ]

    def say(ours: Measured) -> str:
        return f"At this rate 50,000 images take {50_000 / median(ours.rates) / 60:.1f} minutes."

    return Race(contestants, say)


def computations(device: str) -> dict[str, Race]:
    """Return steps of fromnoise in each precision and layout, first fp32, channels first."""
    found = {}
    for one in networks(device) + recipes():
        few = max(2, one.batch_size // 4)
        title = f"{one.title}, {one.side}x{one.side}, batch {few}"
        given = {"network": one.network, "options": one.options, "batch_size": few}
        given |= {"side": one.side, "device": device, "compile": False}
        contestants = [
            Contestant(
                f"{precision}, channels {'last' if last else 'first'}",
                "ours:training_step",
                {**given, "precision": precision, "channels_last": last},
                times=1 if device == "cpu" else STEPS_ON_GPU,
            )
            for precision in ("fp32", "bf16")
            for last in (False, True)
        ]
        found[title] = Race(contestants, lambda first: f"{first.how} is the first row.")
    return found


def recipes() -> list[Network]:
    """Return the networks of recipes that no other row has."""
    sizes = {"folder": (16, 64), "digits": (128, 8), "shapes-small": (32, 32)}
    return [
        Network(f"the network of `{name}`", recipe.name, dict(recipe.options), *size, ())
        for name, size in sizes.items()
        for recipe in [load_recipe(name).network]
    ]


def profile(chosen: dict[str, Race], file: Path) -> None:
    """Write the profile of fromnoise in each race to a file."""
    tables = []
    for title, one in chosen.items():
        with Worker(one.contestants[0]) as worker:
            worker.round()
            tables.append(f"{title}; {worker.ready['how']}\n\n{worker.profile()}")
    file.write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    print(file)


def main() -> None:
    """Print the tables and save the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure only titles that contain this text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--computations", action="store_true", help="each precision and layout")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a profile instead")
    a = parser.parse_args()
    every = (computations if a.computations else races)(a.device)
    chosen = {title: one for title, one in every.items() if a.only in title}
    if not chosen:
        parser.error(f"--only {a.only!r} matches no title. Titles: {'; '.join(every)}.")
    if a.profile:
        profile(chosen, a.profile)
        return
    merge = bool(a.only)
    if merge and not a.computations:
        try:
            refuse_another_machine("network_speed", a.device)
        except ValueError as error:
            parser.error(str(error))
    for title, one in chosen.items():
        print(f"{title}; {machine(a.device)}", flush=True)
        measured = race(one.contestants, rounds=a.rounds)
        print(table(measured), flush=True)
        if a.computations:
            continue
        first = next(iter(measured.values()))
        if FLOOR in measured:
            print(f"  time relative to the floor: {over(ratios(first, measured[FLOOR]))}")
        note = one.say(first)
        print(f"  {note}", flush=True)
        save_race(
            "network_speed", {title: measured}, notes={title: note}, device=a.device, merge=merge
        )
        merge = True  # keep earlier results if interrupted


if __name__ == "__main__":
    main()
