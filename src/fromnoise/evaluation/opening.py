"""What a person names → what generated images are compared with, and in whose features."""

from pathlib import Path

import numpy as np

from fromnoise.classifier.classifier import load_classifier
from fromnoise.config.errors import ConfigError
from fromnoise.evaluation.features import Extractor, open_extractor
from fromnoise.evaluation.images import Real, images_at_size, images_like_training, images_of_run
from fromnoise.evaluation.kinds import is_model
from fromnoise.evaluation.reference import Reference, reference_from_npz, reference_of
from fromnoise.model.model import Model, select_device
from fromnoise.progress import progress_bar

OF_A_RUN = ("train", "test")


def build_extractor(
    extractor: str,
    shape: tuple[int, int, int],
    *,
    classifier: Path | None,
    features_weights: Path | None,
    device: str,
) -> Extractor:
    """One of EXTRACTORS for images of `shape` (C, H, W), with the classifier in a folder.

    Raises what `open_extractor` and `load_classifier` raise.
    """
    return open_extractor(
        extractor,
        shape,
        classifier=None if classifier is None else load_classifier(classifier, device=device),
        weights=features_weights,
        device=select_device(device),
    )


def open_real(
    reference: str, path: Path, model: Model | None, shape: tuple[int, int, int]
) -> Real | None:
    """The real images that `--reference` names; None where it is an npz of `mu` and `sigma`.

    path: where the model, or where there is none the images that are scored, came from. shape:
    (C, H, W) of these images.
    Raises ConfigError where nothing can be compared with it, DataError where it cannot be read.
    """
    if _is_statistics(reference):
        return None
    if model is None and reference in OF_A_RUN:
        raise ConfigError(
            f"{path.absolute()} holds images and no model, so what they are compared with must be "
            "named: --reference with a folder, zip or npz of real images"
        )
    if reference in OF_A_RUN:
        return images_of_run(path, reference)
    _refuse_other_than_images(Path(reference).expanduser())
    if model is None:
        return images_at_size(Path(reference), shape)
    return images_like_training(model, Path(reference))


def open_reference(reference: str, real: Real | None, space: Extractor) -> Reference:
    """What `open_real` found, in the features of an extractor."""
    if real is None:
        return reference_from_npz(Path(reference), space)
    with progress_bar("features of real images") as progress:
        return reference_of(real, space, progress=progress)


def _refuse_other_than_images(path: Path) -> None:
    """A run has pictures too: its curves and previews, which are no reference for anything."""
    wanted = "give train or test of the run, or a folder, zip or npz of real images"
    if not path.exists():
        raise ConfigError(f"--reference: there is nothing at {path.absolute()}; {wanted}")
    if is_model(path):
        raise ConfigError(
            f"--reference: {path.absolute()} is a run or a model, not real images; {wanted}"
        )


def _is_statistics(reference: str) -> bool:
    if not reference.endswith(".npz") or not Path(reference).is_file():
        return False
    try:
        with np.load(reference) as stored:
            return not {"mu", "sigma"}.isdisjoint(stored.files)
    except Exception:  # whatever is wrong with it is said when it is read as images
        return False
