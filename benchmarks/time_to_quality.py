"""Fashion-MNIST, learned for the same time by fromnoise and by two peers: whose images are better.

fromnoise trains its recipe `fashion-mnist`; diffusers does what its unconditional example does;
denoising_diffusion_pytorch is its `Trainer`. Each has its own defaults, a network of its own kind
of about as many parameters as the recipe's, and the same wall-clock time: from before the first
step until the weights are on the disk. Imports, and decoding images before the first step, do not
count; previews and checkpoints on the way, which only fromnoise makes here, do. They take turns,
and time in which a contestant is stopped does not count for it.

A short training of each, thrown away, says how many steps the time has room for (less 3 %): over
them the learning rates of fromnoise and of diffusers fall to 0. Who is slower than that is ended by
the clock all the same.

Then each draws the same number of images, in 25 DDIM steps, and again in as many as it takes at
most (but no fewer than 2) to be done in a given number of seconds. The peers' networks cannot
take 28x28: their images have a black border of 2 pixels, which is cut off what they draw. Labels
are not used.

Trained weights and drawn images stay in the folder --out; what is there is not done again.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contestants.padding import padded
from PIL import Image
from quality_of_drawings import distance, drawn
from race import PEERS_PYTHON, Contestant
from report import machine, save
from table import of_contest
from turns import Stage, check_plan, finish

from fromnoise import ImageSet, open_images
from fromnoise.data import detect_source
from fromnoise.evaluation.extractors import Extractor, check_installed, of_judge
from fromnoise.evaluation.judge import load_judge
from fromnoise.evaluation.real import Real
from fromnoise.evaluation.reference import Reference, reference_of

RECIPE = "fashion-mnist"
OURS, DIFFUSERS, LUCIDRAINS = "fromnoise", "diffusers", "lucidrains"
WORK = {
    OURS: "fromnoise_recipe",
    DIFFUSERS: "diffusers_example",
    LUCIDRAINS: "lucidrains_trainer",
}
WITH_A_RATE_THAT_FALLS = (OURS, DIFFUSERS)
MARGIN = 0.03  # of the time, that the planned steps leave
DDIM_STEPS, FEWEST, T = 25, 2, 1000
BATCH_SIZE = 64  # of drawing
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
    """The DDIM steps in which as many images as in DDIM_STEPS are drawn within so many seconds."""
    return min(max(FEWEST, int(DDIM_STEPS * seconds / made["seconds"] + 1e-9)), T)


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


def contest(
    out: Path, data: ImageSet, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What each contestant says of its training, and of its two drawings."""
    array, pictures = (str(there.absolute()) for there in write_images(data.images, out))
    _, channels, *size = data.images.shape
    path = None if arguments.data is None else str(arguments.data.absolute())
    given = {
        OURS: {"data": path, "recipe": RECIPE},
        DIFFUSERS: {"images": array},
        LUCIDRAINS: {"pictures": pictures, "channels": channels},
    }
    shapes = {OURS: {}, DIFFUSERS: {"size": size}, LUCIDRAINS: {"size": size, "channels": channels}}

    def all_three(function: str, options: Options, names: Mapping[str, str]) -> dict[str, Any]:
        ours_python, peers_python = Path(sys.executable), arguments.peers_python
        stages = [
            Stage(
                names[one],
                Contestant(
                    one,
                    f"{WORK[one]}:{function}",
                    options[one],
                    ours_python if one == OURS else peers_python,
                ),
            )
            for one in WORK
        ]
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
    alike = draw(dict.fromkeys(WORK, DDIM_STEPS))
    limit = arguments.drawing_seconds or alike[OURS]["seconds"]
    return trained, [alike, draw({one: steps_within(made, limit) for one, made in alike.items()})]


def score(
    out: Path, drawings: Sequence[Mapping[str, Any]], reference: Reference, space: Extractor
) -> list[dict[str, Any]]:
    """Everything said of each drawing, with its distance, ours over the better peer's."""
    scored: list[dict[str, Any]] = []
    for title, made in zip(("in as many steps", "in as much time"), drawings, strict=True):
        found = {}
        for one, facts in made.items():
            images = drawn(out / one / f"drawn-{facts['ddim_steps']}")
            comes_to = distance(images, reference, space)
            found[one] = {**facts, "frechet_distance": comes_to._asdict()}
        values = {one: facts["frechet_distance"]["value"] for one, facts in found.items()}
        times = values[OURS] / min(values[one] for one in values if one != OURS)
        scored.append({"drawn": title, **found, "times_the_better_peer": times})
    return scored


def main() -> None:
    """Do what is not done yet; print and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder; what is in it is kept")
    parser.add_argument(
        "--judge", type=Path, required=True, help="of `fromnoise judge train fashion-mnist`"
    )
    parser.add_argument("--data", type=Path, help="where Fashion-MNIST lies, or is to be fetched")
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each")
    parser.add_argument("--num", type=int, default=10_000, help="images to draw, of each")
    parser.add_argument(
        "--drawing-seconds",
        type=float,
        help=f"of the second drawing; by default what fromnoise takes for {DDIM_STEPS} steps",
    )
    parser.add_argument("--probe", type=float, default=60, help="seconds of the training before")
    parser.add_argument("--slice", type=float, default=60, help="seconds of a turn")
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that contestants are ended too

    check_installed()
    source = RECIPE if arguments.data is None else detect_source(arguments.data, named=RECIPE)
    data, held_out = (open_images(source, arguments.data, split=s) for s in ("train", "test"))
    out = arguments.out
    plan = {key: getattr(arguments, key) for key in ("minutes", "probe", "num", "drawing_seconds")}
    check_plan(out, {**plan, "data": data.fingerprint})
    judge = load_judge(arguments.judge)  # before the hours after which it is needed
    trained, drawings = contest(out, data, arguments)
    space = of_judge(judge)
    reference = reference_of(Real(data, f"{RECIPE}, train"), space)
    real = distance(np.asarray(held_out.images), reference, space)
    figures = {
        **plan,
        "judge": {"weights": space.weights, "accuracy": judge.spec.held_out},
        "training_images": len(data),
        "training": trained,
        "drawings": score(out, drawings, reference, space),
        "held_out_images": len(held_out),
        "real_images": real._asdict(),
    }
    save("time_to_quality", figures)
    print(of_contest(figures))
    print(machine())


if __name__ == "__main__":
    main()
