"""What each choice of a recipe is worth: it is trained as it is, and with one choice changed.

All make the same number of steps in the same precision on the same images in the same order; none
of the choices costs time. Each then draws the same number of images from the same noise, in 25
DDIM steps, and their Fréchet distance to the training images is taken in the features of a
classifier. The recipe with another seed says how far apart two distances may lie for no reason.
Labels are not used.

Trained weights and drawn images stay in the folder --out; what is there is not done again.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from quality_of_drawings import (
    BATCH_SIZE,
    DDIM_STEPS,
    RECIPE,
    distance,
    drawn,
    measure_for,
    parser_of,
)
from race import Contestant
from report import machine, save
from table import interval
from turns import Stage, finish

from fromnoise.model.precision import computes_in_bf16

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
    "ema_decay: 0.98": {"training.ema_decay": 0.98},
    "no average": {"training.ema_decay": 0.0},
}


def stages_of(
    name: str, changed: Mapping[str, Any], out: Path, *, data: str | None, steps: int, num: int
) -> list[Stage]:
    """Training with these changes, and drawing, in out/NAME."""
    precision = "bf16" if computes_in_bf16(torch.device("cpu")) else "fp32"
    alike = {"training.precision": precision, "training.channels_last": False}
    training = {"data": data, "recipe": RECIPE, "steps": steps, "overrides": {**alike, **changed}}
    drawing = {
        "trained": str((out / name / "training").absolute()),
        "count": num,
        "steps": DDIM_STEPS,
        "batch_size": BATCH_SIZE,
    }
    return [
        Stage("training", Contestant(name, "fromnoise_recipe:train", training)),
        Stage("drawn", Contestant(name, "fromnoise_recipe:draw", drawing)),
    ]


def main() -> None:
    """Do what is not done yet; print and keep the figures."""
    parser = parser_of(__doc__, num=2000)
    parser.add_argument("--steps", type=int, default=1500, help="of training, for each")
    a = parser.parse_args()
    plan = {"steps": a.steps, "num": a.num}
    measure = measure_for(a, plan)
    print(
        f"{a.steps:,} steps each, {a.num:,} images each, against {len(measure.data):,} training "
        f"images; {machine()}",
        flush=True,
    )
    found: dict[str, Any] = {}
    for choice, changed in CHOICES.items():
        name = choice.replace(": ", "-").replace(" ", "-")
        told = [
            finish([stage], a.out, slice_seconds=math.inf)[name]
            for stage in stages_of(
                name, changed, a.out, data=measure.path, steps=a.steps, num=a.num
            )
        ]
        comes_to = distance(drawn(a.out / name / "drawn"), measure)._asdict()
        print(f"  {choice:24} {interval(comes_to)}", flush=True)
        found[choice] = {"how": told[0]["how"], "frechet_distance": comes_to}
    save("recipe_choices", {**plan, "recipe": RECIPE, **measure.told(), "choices": found})


if __name__ == "__main__":
    main()
