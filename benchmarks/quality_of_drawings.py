"""Measure the Fréchet distance of images to Fashion-MNIST in the features of a classifier."""

import hashlib
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import versions
from turns import check_plan

from fromnoise import ImageSet, open_images
from fromnoise.classifier.classifier import Classifier, load_classifier
from fromnoise.config.recipe import load_recipe
from fromnoise.data import detect_source
from fromnoise.evaluation.features import check_installed, classifier_features, extract_features
from fromnoise.evaluation.images import RealImages, Reference, reference_of
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.metrics import BLOCKS, frechet_scores, moments_of

RECIPE = "fashion-mnist"
DDIM_STEPS = 25
BATCH_SIZE = 64  # of sampling


class Measure(NamedTuple):
    """The training images, the held-out images, and the features to compare images in.

    held_out: real images that are not trained on; path: `data.path` of a recipe.
    """

    data: ImageSet
    held_out: ImageSet
    path: str | None
    classifier: Classifier
    reference: Reference

    def told(self) -> dict[str, Any]:
        """Return what describes the distances, with the distance of the held-out images."""
        weights = classifier_features(self.classifier).weights
        return {
            "classifier": {"weights": weights, "accuracy": self.classifier.spec.held_out},
            "training_images": len(self.data),
            "held_out_images": len(self.held_out),
            "real_images": distance(np.asarray(self.held_out.images), self)._asdict(),
        }


def parser_of(doc: str | None, *, num: int) -> ArgumentParser:
    """Return the parser of the common options. num: the default number of samples."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder; finished results in it are reused"
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        required=True,
        help=f"a folder of `fromnoise classifier train {RECIPE}`",
    )
    parser.add_argument(
        "--data", type=Path, help="the folder of Fashion-MNIST, or to download it to"
    )
    parser.add_argument("--num", type=int, default=num, help="number of samples of each")
    return parser


def measure_for(arguments: Namespace, plan: Mapping[str, Any], *, recipe: str = RECIPE) -> Measure:
    """Open the data and the classifier. SystemExit if `--out` has results of other options."""
    check_installed()
    source = RECIPE if arguments.data is None else detect_source(arguments.data, named=RECIPE)
    data, held_out = (open_images(source, arguments.data, split=s) for s in ("train", "test"))
    trained = hashlib.sha256(load_recipe(recipe).to_yaml().encode()).hexdigest()[:16]
    same = {"data": data.fingerprint, "recipe": trained, "versions": versions()}
    check_plan(arguments.out, {**plan, **same})
    classifier = load_classifier(arguments.classifier)
    reference = reference_of(RealImages(data, f"{RECIPE}, train"), classifier_features(classifier))
    path = None if arguments.data is None else str(arguments.data.absolute())
    return Measure(data, held_out, path, classifier, reference)


def distance(images: np.ndarray, measure: Measure) -> Interval:
    """Return the distance (`fid`) of `fromnoise evaluate` for images uint8 (N, C, H, W)."""
    space = classifier_features(measure.classifier)
    features = extract_features(space, images).features
    blocks = [moments_of(block) for block in np.array_split(features, BLOCKS)]
    return frechet_scores(blocks, measure.reference.mean, measure.reference.covariance)[0]


def drawn(folder: Path) -> np.ndarray:
    """Return the images that `draw_shards` wrote."""
    with np.load(folder / "images.npz") as kept:
        return kept["images"]
