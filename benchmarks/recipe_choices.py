"""What each choice of a recipe is worth: it is trained as it is, and with one choice changed.

All make the same number of steps on the same images in the same order, so they take the same time
but for what the choice itself costs, which is given. Each then draws the same number of images from
the same noise, in 25 DDIM steps, and their Fréchet distance to the training images is taken in the
features of a judge. The recipe with another seed says how far apart two distances may lie for no
reason. Labels are not used.

Trained weights and drawn images stay in the folder --out; what is there is not done again.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quality_of_drawings import distance, drawn
from race import Contestant
from report import machine, save
from table import interval
from turns import Stage, check_plan, finish

from fromnoise import open_images
from fromnoise.data import detect_source
from fromnoise.evaluation.extractors import check_installed, of_judge
from fromnoise.evaluation.judge import load_judge
from fromnoise.evaluation.real import Real
from fromnoise.evaluation.reference import reference_of

RECIPE = "fashion-mnist"
CHOICES: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "another seed": {"training.seed": 1},
    "schedule: linear": {"diffusion.schedule": "linear"},
    "schedule: sigmoid": {"diffusion.schedule": "sigmoid"},
    "prediction: eps": {"diffusion.prediction": "eps"},
    "prediction: x0": {"diffusion.prediction": "x0"},
    "weighting: min_snr": {"diffusion.weighting": "min_snr"},
    "learning_rate: 4e-4": {"training.learning_rate": 4e-4},
    "learning_rate: 1.6e-3": {"training.learning_rate": 1.6e-3},
    "lr_schedule: constant": {"training.lr_schedule": "constant"},
    "ema_decay: 0.99": {"training.ema_decay": 0.99},
    "ema_decay: 0.9999": {"training.ema_decay": 0.9999},
}
DDIM_STEPS = 25
BATCH_SIZE = 64  # of drawing


def done(name: str, stage: str, function: str, out: Path, **options: Any) -> dict[str, Any]:
    """What a stage says of itself, which is done first if it was not yet."""
    contestant = Contestant(name, f"fromnoise_recipe:{function}", options)
    return finish([Stage(stage, contestant)], out, slice_seconds=math.inf)[name]


def images_of(
    changed: Mapping[str, Any], out: Path, name: str, *, data: str | None, steps: int, num: int
) -> dict[str, Any]:
    """Train with these changes and draw, into out/NAME; what the training says of itself."""
    trained = done(
        name, "training", "train", out, data=data, recipe=RECIPE, overrides=changed, steps=steps
    )
    folder = str((out / name / "training").absolute())
    given = {"trained": folder, "count": num, "steps": DDIM_STEPS, "batch_size": BATCH_SIZE}
    done(name, "drawn", "draw", out, **given)
    return trained


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
    parser.add_argument("--steps", type=int, default=1500, help="of training, for each")
    parser.add_argument("--num", type=int, default=2000, help="images to draw, of each")
    a = parser.parse_args()

    check_installed()
    source = RECIPE if a.data is None else detect_source(a.data, named=RECIPE)
    data = open_images(source, a.data)
    plan = {"steps": a.steps, "num": a.num}
    check_plan(a.out, {**plan, "data": data.fingerprint})
    judge = load_judge(a.judge)
    space = of_judge(judge)
    reference = reference_of(Real(data, f"{RECIPE}, train"), space)
    path = None if a.data is None else str(a.data.absolute())
    print(
        f"{a.steps:,} steps each, {a.num:,} images each, against {len(data):,} training images; "
        f"{machine()}",
        flush=True,
    )
    found: dict[str, Any] = {}
    for choice, changed in CHOICES.items():
        name = choice.replace(": ", "-").replace(" ", "-")
        trained = images_of(changed, a.out, name, data=path, steps=a.steps, num=a.num)
        comes_to = distance(drawn(a.out / name / "drawn"), reference, space)
        seconds = trained["seconds"] / trained["steps"]
        print(f"  {choice:24} {interval(comes_to._asdict())}, {seconds:.3f} s a step", flush=True)
        found[choice] = {"step_seconds": seconds, "frechet_distance": comes_to._asdict()}
    judged_by = {"weights": space.weights, "accuracy": judge.spec.held_out}
    save("recipe_choices", {**plan, "recipe": RECIPE, "judge": judged_by, "choices": found})


if __name__ == "__main__":
    main()
