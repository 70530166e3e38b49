"""Compare the choices of a recipe at equal time: train a base, and it with one choice changed.

All choices first take training steps in turns, a few rounds of each: from the medians follow the
steps that each makes in --minutes. Each then trains for its steps on nine tenths of the training
set and draws images, and the Fréchet distance of these to the other tenth is taken in the features
of a classifier. Seeds and images are not those of time_to_quality.py, so that nothing is chosen by
what is measured there. Labels are not used. `fast` and `fast; another seed` show how far apart two
distances can be by chance.

Trained weights and drawn images stay in the folder --out; what is there is not done again. The
figures of choices that --only leaves out stay in the results.
"""

import dataclasses
import json
import math
import re
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from quality_of_drawings import BATCH_SIZE, RECIPE, Measure, distance, drawn, measure_for, parser_of
from race import Contestant, race
from report import RESULTS, machine, save
from table import interval
from turns import Stage, finish

from fromnoise.config.recipe import load_recipe
from fromnoise.config.schema import Recipe
from fromnoise.evaluation.features import classifier_features
from fromnoise.evaluation.images import RealImages, reference_of
from fromnoise.model.precision import computes_in_bf16

AS_IT_IS, SEED = "the base", 1000
BASE: dict[str, Any] = {  # of the recipe; every choice changes this
    "network.patch": 2,
    "network.channels": 64,
    "network.multipliers": [1, 2],
    "network.num_res_blocks": 1,
    "network.attention_levels": [],
    "network.scale_shift": False,
    "training.optimizer": "muon",
    "training.learning_rate": 8e-4,
    "training.noise_levels": "uniform",
    "training.batch_size": 32,
    "training.warmup_steps": 0.05,
    "sampling.sampler": "ddim",
    "sampling.steps": 10,
}
NARROW = {"network.channels": 32, "network.num_res_blocks": 2}
FAST = {**NARROW, "network.scale_shift": True, "training.learning_rate": 3.2e-3}
CHOICES: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "optimizer: adam": {"training.optimizer": "adam"},
    "learning_rate: 1.6e-3": {"training.learning_rate": 1.6e-3},
    "batch_size: 64": {"training.batch_size": 64},
    "batch_size: 16": {"training.batch_size": 16},
    "network: scale_shift": {"network.scale_shift": True},
    "network: patch 1, 32 x [1, 2, 4], two blocks": {
        "network.patch": 1,
        "network.channels": 32,
        "network.multipliers": [1, 2, 4],
        "network.num_res_blocks": 2,
        "network.attention_levels": [2],
    },
    "network: 32 x [1, 2], two blocks": NARROW,
    "network: 32 x [1, 2], two blocks; learning_rate: 1.6e-3": {
        **NARROW,
        "training.learning_rate": 1.6e-3,
    },
    "fast": FAST,
    "fast; another seed": {**FAST, "training.seed": SEED + 1},
    "fast; learning_rate: 6.4e-3": {**FAST, "training.learning_rate": 6.4e-3},
    "fast; network: 48 x [1, 2]": {**FAST, "network.channels": 48},
    "fast; network: attention at 7 x 7": {**FAST, "network.attention_levels": [1]},
    "fast; noise_levels: stratified": {**FAST, "training.noise_levels": "stratified"},
    "fast; noise_levels: normal, 0, 2": {
        **FAST,
        "training.noise_levels": {"name": "normal", "mean": 0, "std": 2},
    },
    "fast; weighting: min_snr": {**FAST, "diffusion.weighting": "min_snr"},
    "fast; prediction: edm": {**FAST, "diffusion.prediction": "edm"},
    "fast; prediction: flow": {**FAST, "diffusion.prediction": "flow"},
}
"""Overrides of the base."""
ROUNDS = 7


def recipe_of(choice: str) -> Recipe:
    """The base with a choice changed."""
    return load_recipe(RECIPE, {**BASE, "training.seed": SEED, **CHOICES[choice]})


def folder_of(choice: str) -> str:
    """A name for its files."""
    return "-".join(re.findall(r"[\w.]+", choice))


def step_of(recipe: Recipe, precision: str) -> Contestant:
    """Its training step, of which only what costs time is told apart."""
    settings = recipe.training
    options = {
        "network": recipe.network.name,
        "options": {**recipe.network.options, "image_channels": 1},
        "batch_size": settings.batch_size,
        "side": 28,
        "optimizer": settings.optimizer,
        "precision": precision,
        "channels_last": False,
    }
    return Contestant(json.dumps(options, sort_keys=True), "ours:training_step", options)


def steps_within(minutes: float, recipes: Mapping[str, Recipe], precision: str) -> dict[str, int]:
    """The steps that each makes in so many minutes, by a race of their steps."""
    steps = {choice: step_of(recipe, precision) for choice, recipe in recipes.items()}
    measured = race(list({one.name: one for one in steps.values()}.values()), rounds=ROUNDS)
    return {
        choice: int(60 * minutes / median(measured[one.name].seconds))
        for choice, one in steps.items()
    }


def split(measure: Measure, out: Path) -> tuple[Measure, Path]:
    """The same with a tenth of the training images as the reference; and a file with the others."""
    images = np.asarray(measure.data.images)
    order = np.random.default_rng(0).permutation(len(images))
    held, others = (np.sort(part) for part in np.split(order, [len(images) // 10]))
    file = out / "images.npy"
    if not file.exists():
        np.save(file, images[others])
    tenth = dataclasses.replace(
        measure.data, images=images[held], labels=None, fingerprint=f"{measure.data.fingerprint}/10"
    )
    space = classifier_features(measure.classifier)
    reference = reference_of(RealImages(tenth, f"a tenth of {RECIPE}, train"), space)
    data = dataclasses.replace(measure.data, images=images[others], labels=None)
    return measure._replace(data=data, reference=reference), file.absolute()


def stages_of(
    choice: str, out: Path, *, data: Path, steps: int, num: int, precision: str
) -> list[Stage]:
    """Training with this choice, and drawing, in out/NAME."""
    name, recipe = folder_of(choice), recipe_of(choice)
    training = {
        "data": str(data),
        "recipe": recipe.model_dump(mode="json"),
        "steps": steps,
        "overrides": {"training.precision": precision, "training.channels_last": False},
    }
    trained = str((out / name / "training").absolute())
    drawing = {"trained": trained, "count": num, "batch_size": BATCH_SIZE, "first_seed": 10**6}
    drawing["steps"] = recipe.sampling.steps
    return [
        Stage("training", Contestant(name, "fromnoise_recipe:train", training)),
        Stage("drawn", Contestant(name, "fromnoise_recipe:draw", drawing)),
    ]


def arguments_of(parser: ArgumentParser) -> Any:
    """What the script is told."""
    parser.add_argument("--minutes", type=float, default=10, help="of training, for each")
    parser.add_argument("--only", default="", help="choices whose name has this in it")
    a = parser.parse_args()
    a.choices = [choice for choice in CHOICES if a.only in choice]
    if not a.choices:
        parser.error(f"no choice has {a.only!r} in its name; there are: {'; '.join(CHOICES)}")
    return a


def main() -> None:
    """Do what is not done yet; print and keep the figures."""
    a = arguments_of(parser_of(__doc__, num=2000))
    plan = {"minutes": a.minutes, "num": a.num}
    measure, file = split(measure_for(a, plan), a.out)
    precision = "bf16" if computes_in_bf16(torch.device("cpu")) else "fp32"
    planned = a.out / "steps.json"
    steps: dict[str, int] = json.loads(planned.read_text()) if planned.exists() else {}
    if any(choice not in steps for choice in CHOICES):
        steps = steps_within(a.minutes, {one: recipe_of(one) for one in CHOICES}, precision)
        planned.write_text(json.dumps(steps, indent=1) + "\n")
    print(
        f"{a.minutes:g} minutes each, {a.num:,} images each, against "
        f"{len(measure.reference.features):,} images; {machine()}",
        flush=True,
    )
    told = {**measure.told(), "training_images": len(measure.reference.features)}
    kept = RESULTS / "recipe_choices.json"
    found = json.loads(kept.read_text()).get("choices", {}) if a.only and kept.exists() else {}
    for choice in a.choices:
        given = {"data": file, "steps": steps[choice], "num": a.num, "precision": precision}
        training, drawing = stages_of(choice, a.out, **given)
        how = finish([training], a.out, slice_seconds=math.inf)[folder_of(choice)]["how"]
        finish([drawing], a.out, slice_seconds=math.inf)
        comes_to = distance(drawn(drawing.answer(a.out).with_suffix("")), measure)._asdict()
        print(f"  {choice:48} {steps[choice]:6,} steps  {interval(comes_to)}", flush=True)
        found[choice] = {"how": how, "steps": steps[choice], "frechet_distance": comes_to}
        save("recipe_choices", {**plan, "recipe": RECIPE, **told, "choices": found})


if __name__ == "__main__":
    main()
