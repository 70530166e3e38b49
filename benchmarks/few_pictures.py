"""Train on few images, with augmentation and without: quality and copies at two checkpoints.

For each number of images and each probability of `training.augment`, the recipe is trained for
--minutes with `data.holdout: auto`. Two checkpoints then draw --num images each: the best, which
has the least held-out loss, and the newest. Of these the script tells the Fréchet distance to
unseen images in the features of a classifier, and the share of copies of training images; unseen
images are the control of `check_copies`. Unseen is the test split, or of data without one the share
--unseen. Labels are not used.

Trained weights and drawn images stay in the folder --out; what is there is not done again.
"""

import math
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quality_of_drawings import BATCH_SIZE, drawn
from race import Contestant
from report import machine, save
from table import interval
from turns import Stage, check_plan, finish

from fromnoise import ImageSet, open_images
from fromnoise.checkpoints import BEST
from fromnoise.classifier.classifier import Classifier, load_classifier
from fromnoise.config.recipe import load_recipe
from fromnoise.data import detect_source
from fromnoise.data.errors import NoSplit
from fromnoise.evaluation.copies import check_copies
from fromnoise.evaluation.features import classifier_features, extract_features
from fromnoise.evaluation.images import RealImages, Reference, reference_of
from fromnoise.evaluation.metrics import BLOCKS, frechet_scores, moments_of

CONTROL = 2000  # unseen images, of the check for copies
SEED = 3000


class Arm(NamedTuple):
    """One training."""

    count: int
    augment: float
    seed: int

    @property
    def folder(self) -> str:
        """Name its folder."""
        return f"{self.count}-{self.augment:g}-{self.seed}"


def split(arguments: Namespace) -> tuple[np.ndarray, ImageSet]:
    """Return the images to choose from, in random order, and those that no training sees."""
    source = detect_source(arguments.data)
    size = (arguments.size, arguments.size) if arguments.size else None
    every = open_images(source, arguments.data, size=size)
    order = np.random.default_rng(SEED).permutation(len(every))
    try:
        unseen = open_images(source, arguments.data, split="test", size=size)
    except NoSplit:
        held = round(arguments.unseen * len(every))
        text = f"{every.fingerprint}/{held}"
        rows, order = np.sort(order[:held]), order[held:]
        unseen = replace(every, images=every.images[rows], labels=None, fingerprint=text)
    return np.asarray(every.images)[order], unseen


def stages_of(arm: Arm, images: Path, arguments: Namespace) -> list[Stage]:
    """Training, and drawing at both checkpoints."""
    training = {
        "data": str(images.absolute()),
        "recipe": arguments.recipe,
        "steps": None,
        "overrides": {
            "training.minutes": arguments.minutes,
            "training.augment": arm.augment,
            "training.seed": SEED + arm.seed,
            "data.holdout": "auto",
        },
    }
    trained = (arguments.out / arm.folder / "training").absolute()
    drawing = {"count": arguments.num, "batch_size": BATCH_SIZE, "steps": arguments.steps}
    paths = {"newest": trained, "best": trained / "checkpoints" / BEST}
    stages = [Stage("training", Contestant(arm.folder, "fromnoise_recipe:train", training))]
    return stages + [
        Stage(
            name, Contestant(arm.folder, "fromnoise_recipe:draw", {**drawing, "trained": str(path)})
        )
        for name, path in paths.items()
    ]


def figures_of(
    images: np.ndarray,
    trained_on: np.ndarray,
    unseen: np.ndarray,
    reference: Reference,
    classifier: Classifier,
) -> dict[str, Any]:
    """Return the distance to the unseen images, and the share of copies of the others."""
    features = extract_features(classifier_features(classifier), images).features
    blocks = [moments_of(block) for block in np.array_split(features, BLOCKS)]
    fid = frechet_scores(blocks, reference.mean, reference.covariance)[0]
    check = check_copies(images, trained_on, unseen[:CONTROL])
    return {"frechet_distance": fid._asdict(), "copies": float(check.flagged.mean())}


def arguments_of() -> Namespace:
    """Return what the script is told."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder; what is in it is kept")
    parser.add_argument("--data", type=Path, required=True, help="the images")
    parser.add_argument("--classifier", type=Path, required=True, help="trained on such images")
    parser.add_argument("--name", default="few_pictures", help="of the file with the results")
    parser.add_argument("--recipe", default="fashion-mnist-fast")
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 500, 2000, 10_000])
    parser.add_argument("--augment", type=float, nargs="+", default=[0.0, 0.15])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30, help="of each training")
    parser.add_argument("--num", type=int, default=2000, help="images to draw, of each checkpoint")
    parser.add_argument("--steps", type=int, default=10, help="of drawing")
    parser.add_argument("--unseen", type=float, default=1 / 3, help="share, without a test split")
    return parser.parse_args()


def main() -> None:
    """Do what is not done yet; print and keep the figures."""
    a = arguments_of()
    plan = {key: getattr(a, key) for key in ("minutes", "num", "steps", "recipe", "size")}
    check_plan(a.out, {**plan, "values": load_recipe(a.recipe).to_yaml()})
    images, unseen = split(a)
    classifier = load_classifier(a.classifier)
    real = RealImages(unseen, f"{a.data.name}, unseen")
    reference = reference_of(real, classifier_features(classifier))
    print(f"{a.minutes:g} minutes each; {len(unseen):,} unseen images; {machine()}", flush=True)
    arms = [Arm(n, p, s) for s in range(a.seeds) for n in a.counts for p in a.augment]
    found = []
    for arm in arms:
        file = a.out / f"images-{arm.count}.npy"
        if not file.exists():
            np.save(file, images[: arm.count])
        told = {}
        for stage in stages_of(arm, file, a):
            told[stage.name] = finish([stage], a.out, slice_seconds=math.inf)[arm.folder]
        row = {**arm._asdict(), "trained": told["training"]}
        for name in ("best", "newest"):
            row[name] = figures_of(
                drawn(a.out / arm.folder / name),
                images[: arm.count],
                np.asarray(unseen.images),
                reference,
                classifier,
            )
            print(
                f"  {arm.folder:16} {name:7} {interval(row[name]['frechet_distance'])}, "
                f"{100 * row[name]['copies']:.1f} % copies",
                flush=True,
            )
        found.append(row)
        kept = {**plan, "accuracy": classifier.spec.held_out, "unseen": len(unseen)}
        save(a.name, {**kept, "few_pictures": found})


if __name__ == "__main__":
    main()
