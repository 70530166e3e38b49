"""Fashion-MNIST, learned for the same time by fromnoise and by two peers: whose images are better.

fromnoise trains its recipe `fashion-mnist`; diffusers does what its unconditional example does;
denoising_diffusion_pytorch is its `Trainer`. Each has its own defaults, a network of its own kind
of about as many parameters as the recipe's, and the same wall-clock time: from before the first
step until the weights are on the disk. What comes before the first step does not count: imports,
decoding images, building the network. Previews and checkpoints on the way, which only fromnoise
makes here, do. They take turns, and time in which a contestant is stopped does not count for it.

A short training of each, thrown away, says how many steps the time has room for (less 3 %): over
them the learning rates of fromnoise and of diffusers fall to 0. Who is slower than that is ended by
the clock all the same.

Then each draws the same number of images in the same number of DDIM steps, and again in as many as
fit into the time that fromnoise takes for these, but no fewer than 2. The peers' networks cannot
take 28x28: their images have a black border of 2 pixels, which is cut off what they draw. Labels
are not used.

Trained weights and drawn images stay in the folder --out; what is there is not done again.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from contestants.padding import padded
from PIL import Image
from quality_of_drawings import (
    BATCH_SIZE,
    DDIM_STEPS,
    RECIPE,
    Measure,
    distance,
    drawn,
    measure_for,
    parser_of,
)
from race import PEERS_PYTHON, Contestant
from report import machine, save
from table import of_contest
from turns import Stage, finish

OURS, DIFFUSERS, LUCIDRAINS = "fromnoise", "diffusers", "lucidrains"
WORK = {OURS: "fromnoise_recipe", DIFFUSERS: "diffusers_example", LUCIDRAINS: "lucidrains_trainer"}
WITH_A_RATE_THAT_FALLS = (OURS, DIFFUSERS)
MARGIN = 0.03  # of the time, that the planned steps leave
FEWEST, T = 2, 1000  # steps of DDIM
Options = Mapping[str, Mapping[str, Any]]  # contestant → arguments


def end_of(
    probe: Mapping[str, Any], probe_seconds: float, seconds: float, *, falls: bool
) -> dict[str, Any]:
    """When a training that is to be over at `seconds` ends: its planned steps, or the last second.

    The probe was told to end at `probe_seconds`; the rest of that step and writing the weights
    took until its own `seconds`. falls: whether the learning rate needs to know the steps.
    """
    last = max(0.0, seconds - (probe["seconds"] - probe_seconds))
    steps = max(1, int((1 - MARGIN) * last * probe["steps"] / probe_seconds))
    return {"steps": steps if falls else None, "seconds": last}


def steps_within(made: Mapping[str, Any], seconds: float) -> int:
    """The DDIM steps in which as many images as were made are drawn within so many seconds."""
    return min(max(FEWEST, int(made["ddim_steps"] * seconds / made["seconds"] + 1e-9)), T)


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


def contest(measure: Measure, arguments: Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What each contestant says of its training, and of its two drawings."""
    out, data = arguments.out, measure.data
    array, pictures = (str(there.absolute()) for there in write_images(data.images, out))
    _, channels, *size = data.images.shape
    given = {
        OURS: {"data": measure.path, "recipe": RECIPE},
        DIFFUSERS: {"images": array},
        LUCIDRAINS: {"pictures": pictures, "channels": channels},
    }
    shapes = {OURS: {}, DIFFUSERS: {"size": size}, LUCIDRAINS: {"size": size, "channels": channels}}

    def all_three(function: str, options: Options, names: Mapping[str, str]) -> dict[str, Any]:
        stages = []
        for one, module in WORK.items():
            python = Path(sys.executable) if one == OURS else PEERS_PYTHON
            doing = Contestant(one, f"{module}:{function}", options[one], python)
            stages.append(Stage(names[one], doing))
        return finish(stages, out, slice_seconds=arguments.slice)

    def train(name: str, ends: Options) -> dict[str, Any]:
        options = {one: {**given[one], **ends[one]} for one in WORK}
        return all_three("train", options, dict.fromkeys(WORK, name))

    def draw(steps: Mapping[str, int]) -> dict[str, Any]:
        options = {
            one: {
                **shapes[one],
                "trained": str((out / one / "training").absolute()),
                "count": arguments.num,
                "steps": steps[one],
                "batch_size": BATCH_SIZE,
            }
            for one in WORK
        }
        made = all_three("draw", options, {one: f"drawn-{steps[one]}" for one in WORK})
        return {one: {**facts, "ddim_steps": steps[one]} for one, facts in made.items()}

    seconds = 60 * arguments.minutes
    short = {one: {"steps": None, "seconds": arguments.probe} for one in WORK}
    ends = {
        one: end_of(probe, arguments.probe, seconds, falls=one in WITH_A_RATE_THAT_FALLS)
        for one, probe in train("probe", short).items()
    }
    trained = train("training", ends)
    trained = {one: {**facts, "planned": ends[one]["steps"]} for one, facts in trained.items()}
    alike = draw(dict.fromkeys(WORK, arguments.ddim_steps))
    limit = alike[OURS]["seconds"]
    in_time = draw({one: steps_within(made, limit) for one, made in alike.items()})
    return trained, [
        {"drawn": "in as many steps", "seconds": None, **alike},
        {"drawn": "in as much time", "seconds": limit, **in_time},
    ]


def scored(drawing: Mapping[str, Any], out: Path, measure: Measure) -> dict[str, Any]:
    """The drawing with the distance of each, and ours over the better peer's."""
    found = dict(drawing)
    for one in WORK:
        images = drawn(out / one / f"drawn-{drawing[one]['ddim_steps']}")
        found[one] = {**drawing[one], "frechet_distance": distance(images, measure)._asdict()}
    values = {one: found[one]["frechet_distance"]["value"] for one in WORK}
    times = values[OURS] / min(value for one, value in values.items() if one != OURS)
    return {**found, "times_the_better_peer": times}


def main() -> None:
    """Do what is not done yet; print and keep the figures."""
    parser = parser_of(__doc__, num=10_000)
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each")
    parser.add_argument("--probe", type=float, default=60, help="seconds of the training before")
    parser.add_argument("--ddim-steps", type=int, default=DDIM_STEPS, help="of all, at first")
    parser.add_argument("--slice", type=float, default=60, help="seconds of a turn")
    arguments = parser.parse_args()
    plan = {key: getattr(arguments, key) for key in ("minutes", "probe", "num")}
    measure = measure_for(arguments, plan)
    trained, drawings = contest(measure, arguments)
    figures = {
        **plan,
        **measure.told(),
        "training": trained,
        "drawings": [scored(drawing, arguments.out, measure) for drawing in drawings],
    }
    save("time_to_quality", figures)
    print(of_contest(figures))
    print(machine())


if __name__ == "__main__":
    main()
