"""Train on Fashion-MNIST with three programs for the same time, and compare their samples.

fromnoise trains a shipped recipe, diffusers its unconditional example, and
denoising_diffusion_pytorch its `Trainer`. Each has its own defaults and the same wall-clock time,
from before the first step until the weights are on the disk. The other networks have the width
whose number of parameters is nearest to that of the recipe. The time excludes what comes before the
first step (imports, decoding, building the network), and includes previews and checkpoints, which
only fromnoise writes here. The programs train in turns; the time in which one is stopped does not
count for it.

A short training of each, which is discarded, tells how many steps fit into the time, less 6 % for
previews and checkpoints. Over these steps the learning rates of fromnoise and diffusers decay to 0.
A program that is slower than planned stops at the end of the time.

Then each program samples with its own sampler: --num images in 10 steps, half as many, at most
2,000, in 50 steps, and --num again in as many steps as fit into the time that fromnoise took for
the first, at least 2. fromnoise uses the sampler of the recipe, the others DDIM. The other networks
do not support 28×28: their training images have a black border of 2 pixels, which is cut off their
samples. Labels are not used.

With --helped the other programs run again: in bf16 if this machine supports it, with a batch of 16,
32 or 64, whichever trains on the most images in the short training, and with DPM-Solver++ for
diffusers. fromnoise is not trained again.

Weights and samples stay in the folder --out. Finished stages there are not repeated.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contestants.padding import padded
from PIL import Image
from quality_of_drawings import BATCH_SIZE, RECIPE, Measure, distance, drawn, measure_for, parser_of
from race import PEERS_PYTHON, Contestant
from report import machine, save
from table import HELPED, OURS, of_contest
from turns import Stage, finish

from fromnoise.config.recipe import load_recipe
from fromnoise.model.model import build_denoiser, select_device
from fromnoise.model.precision import computes_in_bf16
from fromnoise.pictures import grids_side_by_side
from fromnoise.training.run import prepare

FEW, MORE = 10, 50  # steps of sampling
NUM_OF_MORE = 2000  # images
FEWEST, T = 2, 1000  # steps of sampling: minimum and maximum
BATCH_SIZES = (16, 32, 64)  # of a helped program
MARGIN = 0.06  # share of the time that the planned steps leave for previews and checkpoints
SHOWN = 36  # images in the picture


class Entrant(NamedTuple):
    """A program: the module of its functions, and its own arguments for training and sampling.

    falls: whether its learning rate schedule needs the number of steps.
    """

    name: str
    module: str
    training: Mapping[str, Any]
    drawing: Mapping[str, Any]
    falls: bool = True


def entrants(measure: Measure, recipe: str, out: Path) -> list[Entrant]:
    """Return fromnoise and the other programs with their defaults."""
    array, pictures = (str(there.absolute()) for there in write_images(measure.data.images, out))
    spec = prepare(load_recipe(recipe), measure.data, out).spec
    network = build_denoiser(spec).network
    parameters = {"parameters": sum(p.numel() for p in network.parameters())}
    alike = {"channels": spec.channels, **parameters}
    size = {"size": list(spec.size)}
    ours = {"data": measure.path, "recipe": recipe}
    return [
        Entrant(OURS, "fromnoise_recipe", ours, {}),
        Entrant("diffusers", "diffusers_example", {"images": array, **parameters}, size),
        Entrant(
            "lucidrains",
            "lucidrains_trainer",
            {"pictures": pictures, **alike},
            {**alike, **size},
            falls=False,
        ),
    ]


def helped(peer: Entrant, *, bf16: bool) -> Entrant:
    """Return the program with the faster options that it has."""
    solver = {"solver": True} if peer.name == "diffusers" else {}
    return peer._replace(
        name=peer.name + HELPED,
        training={**peer.training, "bf16": bf16},
        drawing={**peer.drawing, "bf16": bf16, **solver},
    )


def end_of(
    probe: Mapping[str, Any], probe_seconds: float, seconds: float, *, falls: bool
) -> dict[str, Any]:
    """Return the planned steps, and the last second, of a training that must be over at `seconds`.

    The probe had to end at `probe_seconds`. Its last step and writing the weights took until its
    own `seconds`.
    """
    last = max(0.0, seconds - (probe["seconds"] - probe_seconds))
    steps = max(1, int((1 - MARGIN) * last * probe["steps"] / probe_seconds))
    return {"steps": steps if falls else None, "seconds": last}


def rate(trained: Mapping[str, Any]) -> float:
    """Return the training images per second."""
    return trained["steps"] * trained["batch_size"] / trained["seconds"]


def steps_within(made: Mapping[str, Any], seconds: float) -> int:
    """Return the largest number of steps with which as many images take at most `seconds`."""
    return min(max(FEWEST, int(made["steps"] * seconds / made["seconds"] + 1e-9)), T)


def write_images(images: np.ndarray, out: Path) -> tuple[Path, Path]:
    """Write the training images for the other programs: one array, and one padded PNG each."""
    array, pictures = out / "images.npy", out / "pictures"
    if not pictures.exists():
        np.save(array, images)
        writing = out / "pictures.writing"
        writing.mkdir(exist_ok=True)
        for i, image in enumerate(padded(images)):
            Image.fromarray(image[0]).save(writing / f"{i:05d}.png")
        writing.replace(pictures)
    return array, pictures


def stage_of(drawing: Mapping[str, Any], name: str) -> str:
    """Return the name of the stage of a drawing."""
    return f"drawn-{drawing[name]['steps']}-{drawing['num']}"


def contest(measure: Measure, arguments: Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run all stages; return the results of each training, and of the three drawings."""
    out, seconds = arguments.out, 60 * arguments.minutes
    plain = entrants(measure, arguments.recipe, out)
    everyone = list(plain)

    def in_turn(function: str, tasks: Sequence[tuple[Entrant, str, Mapping]]) -> dict[str, Any]:
        stages = []
        for one, name, options in tasks:
            python = Path(sys.executable) if one.name == OURS else PEERS_PYTHON
            doing = Contestant(one.name, f"{one.module}:{function}", options, python)
            stages.append(Stage(name, doing))
        return finish(stages, out, slice_seconds=arguments.slice)

    def train(group: Sequence[Entrant], choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Train a group; of the options in `choices`, each uses those with the most images/s."""
        short = {"steps": None, "seconds": arguments.probe}
        probes = []
        for choice in choices:
            name = "-".join(["probe", *map(str, choice.values())])
            tasks = [(one, name, {**one.training, **choice, **short}) for one in group]
            probes.append(in_turn("train", tasks))
        tasks = []
        for one in group:
            best = max(range(len(choices)), key=lambda i, name=one.name: rate(probes[i][name]))
            probe = probes[best][one.name]
            end = end_of(probe, arguments.probe, seconds, falls=one.falls)
            tasks.append((one, "training", {**one.training, **choices[best], **end}))
        planned = {one.name: options["steps"] for one, _, options in tasks}
        told = in_turn("train", tasks)
        return {name: {**facts, "planned": planned[name]} for name, facts in told.items()}

    def draw(title: str, num: int, steps: Mapping[str, int], limit: float | None) -> dict[str, Any]:
        """Sample with every program. limit: the seconds that it may take."""
        plan = {name: {"steps": count} for name, count in steps.items()}
        drawing = {"drawn": title, "num": num, "seconds": limit, **plan}
        tasks = []
        for one in everyone:
            options = {
                **one.drawing,
                "trained": str((out / one.name / "training").absolute()),
                "count": num,
                "steps": steps[one.name],
                "batch_size": BATCH_SIZE,
            }
            tasks.append((one, stage_of(drawing, one.name), options))
        made = in_turn("draw", tasks)
        return {**drawing, **{name: {**facts, **plan[name]} for name, facts in made.items()}}

    trained = train(plain, [{}])
    if arguments.helped:
        bf16 = computes_in_bf16(select_device("auto"))
        peers = [helped(one, bf16=bf16) for one in plain if one.name != OURS]
        trained |= train(peers, [{"batch_size": size} for size in BATCH_SIZES])
        everyone += peers
    names, num = [one.name for one in everyone], arguments.num
    few = draw(f"in {FEW} steps", num, dict.fromkeys(names, FEW), None)
    half = min(NUM_OF_MORE, max(1, num // 2))
    more = draw(f"in {MORE} steps", half, dict.fromkeys(names, MORE), None)
    limit = few[OURS]["seconds"]
    title = f"in the time that {OURS} takes for {FEW} steps"
    in_time = draw(title, num, {name: steps_within(few[name], limit) for name in names}, limit)
    return trained, [few, more, in_time]


def scored(
    drawing: Mapping[str, Any], names: Sequence[str], out: Path, measure: Measure
) -> dict[str, Any]:
    """Return the drawing with the distance of each program."""
    found = dict(drawing)
    for one in names:
        images = drawn(out / one / stage_of(drawing, one))
        found[one] = {**drawing[one], "frechet_distance": distance(images, measure)._asdict()}
    return found


def picture(figures: Mapping[str, Any], out: Path) -> Path:
    """Write a picture of the first images of each program in the first drawing."""
    drawing = figures["drawings"][0]
    panels = [
        (f"{one}: {drawing[one]['sampler']}", drawn(out / one / stage_of(drawing, one))[:SHOWN])
        for one in figures["training"]
    ]
    title = f"The first images after {figures['minutes']:g} minutes of training, {drawing['drawn']}"
    return grids_side_by_side(panels, out / "time-to-quality.png", title=title)


def main() -> None:
    """Run the missing stages; print and save the figures."""
    parser = parser_of(__doc__, num=10_000)
    parser.add_argument(
        "--recipe", default=RECIPE, help=f"the recipe of fromnoise (default {RECIPE})"
    )
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each program")
    parser.add_argument(
        "--helped", action="store_true", help="run the other programs again, with faster options"
    )
    parser.add_argument("--probe", type=float, default=60, help="seconds of the short training")
    parser.add_argument("--slice", type=float, default=60, help="seconds of one turn")
    arguments = parser.parse_args()
    plan = {key: getattr(arguments, key) for key in ("minutes", "probe", "num")}
    measure = measure_for(arguments, plan, recipe=arguments.recipe)
    trained, drawings = contest(measure, arguments)
    figures = {
        **plan,
        "recipe": arguments.recipe,
        **measure.told(),
        "training": trained,
        "drawings": [
            scored(drawing, list(trained), arguments.out, measure) for drawing in drawings
        ],
    }
    save(f"time_to_quality_{arguments.minutes:g}", figures)
    print(of_contest(figures))
    print(machine())
    print(picture(figures, arguments.out))


if __name__ == "__main__":
    main()
