"""Fashion-MNIST, learned for the same time by fromnoise and by two peers: whose images are better.

fromnoise trains a recipe as it is shipped; diffusers does what its unconditional example does;
denoising_diffusion_pytorch is its `Trainer`. Each has its own defaults, and the same wall-clock
time: from before the first step until the weights are on the disk. The networks of the peers have
the width at which they come nearest to the parameters of the recipe's. What comes before the first
step does not count: imports, decoding images, building the network. Previews and checkpoints on the
way, which only fromnoise makes here, do. They take turns, and time in which a contestant is stopped
does not count for it.

A short training of each, thrown away, says how many steps the time has room for (less 3 %): over
them the learning rates of fromnoise and of diffusers fall to 0. Who is slower than that is ended by
the clock all the same.

Then each draws by its own sampler: --num images in 10 steps, up to 2,000 in 50 steps, and --num
again in as many steps as fit into the time that fromnoise takes for the first, but no fewer than 2.
The sampler of fromnoise is that of the recipe with all its settings but the steps, that of the
peers DDIM. The peers' networks cannot take 28x28: their images have a black border of 2 pixels,
which is cut off what they draw. Labels are not used.

With --helped the peers do all of it a second time: in bf16 if this machine computes in it, in
batches of 16, 32 or 64, whichever learns from most images in the short training; and diffusers
draws by its DPM-Solver++. fromnoise is not trained again.

Trained weights and drawn images stay in the folder --out; what is there is not done again.
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

FEW, MORE = 10, 50  # steps of drawing
NUM_OF_MORE = 2000  # images
FEWEST, T = 2, 1000  # steps that can be drawn in
BATCH_SIZES = (16, 32, 64)  # of a peer that is helped
MARGIN = 0.03  # of the time, that the planned steps leave
SHOWN = 36  # images


class Entrant(NamedTuple):
    """Who takes part: the module of its functions, and what these are given beside what all are.

    falls: whether its learning rate needs to know the steps.
    """

    name: str
    module: str
    training: Mapping[str, Any]
    drawing: Mapping[str, Any]
    falls: bool = True


def entrants(measure: Measure, recipe: str, out: Path) -> list[Entrant]:
    """fromnoise and the peers, each as it is."""
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
    """The same, with what it has beside its defaults."""
    solver = {"solver": True} if peer.name == "diffusers" else {}
    return peer._replace(
        name=peer.name + HELPED,
        training={**peer.training, "bf16": bf16},
        drawing={**peer.drawing, "bf16": bf16, **solver},
    )


def end_of(
    probe: Mapping[str, Any], probe_seconds: float, seconds: float, *, falls: bool
) -> dict[str, Any]:
    """When a training that is to be over at `seconds` ends: its planned steps, or the last second.

    The probe was told to end at `probe_seconds`; the rest of that step and writing the weights
    took until its own `seconds`.
    """
    last = max(0.0, seconds - (probe["seconds"] - probe_seconds))
    steps = max(1, int((1 - MARGIN) * last * probe["steps"] / probe_seconds))
    return {"steps": steps if falls else None, "seconds": last}


def rate(trained: Mapping[str, Any]) -> float:
    """Images a second that it has learned from."""
    return trained["steps"] * trained["batch_size"] / trained["seconds"]


def steps_within(made: Mapping[str, Any], seconds: float) -> int:
    """The steps in which as many images as were made are drawn within so many seconds."""
    return min(max(FEWEST, int(made["steps"] * seconds / made["seconds"] + 1e-9)), T)


def write_images(images: np.ndarray, out: Path) -> tuple[Path, Path]:
    """The training images for the peers: one array, and one padded picture for each."""
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
    """What such a drawing of a contestant is called."""
    return f"drawn-{drawing[name]['steps']}-{drawing['num']}"


def contest(measure: Measure, arguments: Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What each contestant says of its training, and of its three drawings."""
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
        """choices: options to choose from, by the images a second."""
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
        """limit: the seconds that it is to take."""
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
    more = draw(f"in {MORE} steps", min(NUM_OF_MORE, num), dict.fromkeys(names, MORE), None)
    limit = few[OURS]["seconds"]
    title = f"in the time that {OURS} takes for {FEW} steps"
    in_time = draw(title, num, {name: steps_within(few[name], limit) for name in names}, limit)
    return trained, [few, more, in_time]


def scored(
    drawing: Mapping[str, Any], names: Sequence[str], out: Path, measure: Measure
) -> dict[str, Any]:
    """The drawing with the distance of each."""
    found = dict(drawing)
    for one in names:
        images = drawn(out / one / stage_of(drawing, one))
        found[one] = {**drawing[one], "frechet_distance": distance(images, measure)._asdict()}
    return found


def picture(figures: Mapping[str, Any], out: Path) -> Path:
    """Write the first images of each, of the first drawing."""
    drawing = figures["drawings"][0]
    panels = [
        (f"{one}: {drawing[one]['sampler']}", drawn(out / one / stage_of(drawing, one))[:SHOWN])
        for one in figures["training"]
    ]
    title = f"{figures['minutes']:g} minutes of training each, {drawing['drawn']}, the first images"
    return grids_side_by_side(panels, out / "time-to-quality.png", title=f"{title} as they came")


def main() -> None:
    """Do what is not done yet; print and keep the figures."""
    parser = parser_of(__doc__, num=10_000)
    parser.add_argument("--recipe", default=RECIPE, help=f"of fromnoise, by default {RECIPE}")
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each")
    parser.add_argument("--helped", action="store_true", help="the peers again, with all they have")
    parser.add_argument("--probe", type=float, default=60, help="seconds of a training before")
    parser.add_argument("--slice", type=float, default=60, help="seconds of a turn")
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
