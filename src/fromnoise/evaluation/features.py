"""Extract features of images, in whose space sets of images are compared."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fromnoise.checkpoints import hash_of, sha256
from fromnoise.classifier.classifier import Classifier, load_classifier
from fromnoise.config.errors import unknown_name
from fromnoise.model.model import select_device
from fromnoise.model.precision import without_tf32
from fromnoise.progress import Progress, no_progress

ALTERNATIVES = (
    "`--extractor classifier --classifier FOLDER` and `--extractor pixels` work without it."
)
PRETRAINED = ("inception", "dinov2")
EXTRACTORS = (*PRETRAINED, "classifier", "pixels")
MAX_SIDE = 32  # pixels; covariances of larger images take hours
BATCH_SIZE, PART = 64, 512  # images in a network, and images between two calls of progress


class ExtractorError(ValueError):
    """Features are not available; the message names the fix."""


class Features(NamedTuple):
    """The features and logits of N images."""

    features: np.ndarray  # float32 (N, D)
    logits: np.ndarray | None = None  # float32 (N, K); None without classes


class Extractor(NamedTuple):
    """A function of images, and all that must be equal to compare two sets of features."""

    name: str
    width: int  # D
    weights: str  # SHA-256 (hex); "" without weights
    resize: str  # how it resizes images of another size
    extract: Callable[[np.ndarray], Features]  # uint8 (N, C, H, W)

    def info(self) -> dict[str, Any]:
        """Return all but the function, for JSON."""
        return {key: value for key, value in self._asdict().items() if key != "extract"}


def check_installed() -> None:
    """Raise ExtractorError if a library of the extra `eval` is missing."""
    if missing := [name for name in ("torch_fidelity", "scipy") if find_spec(name) is None]:
        raise ExtractorError(
            f"{' and '.join(missing)} is not installed. Run pip install -e '.[eval]'."
        )


class Against(NamedTuple):
    """The real images of a comparison, and the features that are compared."""

    reference: str = "train"
    """`train` or `test` of the run; a folder, zip or npz; an npz of `mu` and `sigma`."""
    extractor: str | None = None  # of EXTRACTORS; None: the classifier if given, else inception
    classifier: Path | None = None  # a folder, for `classifier`
    features_weights: Path | None = None  # a file, for `inception`; None downloads it
    allow_small: bool = False  # accept fewer images than features


def open_extractor(
    against: Against, shape: tuple[int, int, int], device: str = "auto"
) -> Extractor:
    """Open one of EXTRACTORS for images of `shape` (C, H, W), with its files loaded.

    Raises ExtractorError for settings that do not match and missing files, and the errors of the
    classifier.
    """
    classifier, features_weights = against.classifier, against.features_weights
    name = against.extractor or ("inception" if classifier is None else "classifier")
    if name not in EXTRACTORS:
        raise ExtractorError(f"--extractor {unknown_name(name, EXTRACTORS)}")
    for option, value, owner in (
        ("--classifier", classifier, "classifier"),
        ("--features-weights", features_weights, "inception"),
    ):
        if value is not None and name != owner:
            raise ExtractorError(
                f"{option} belongs to --extractor {owner}, not to {name}. Remove one of them."
            )
    if name in PRETRAINED and shape[0] not in (1, 3):
        raise ExtractorError(
            f"{name} needs images of 1 or 3 channels, these have {shape[0]}. {ALTERNATIVES}"
        )
    if name == "pixels":
        return pixels(shape)
    if name == "classifier":
        if classifier is None:
            raise ExtractorError(
                "--extractor classifier needs --classifier FOLDER, or evaluation.classifier in a "
                "recipe. Train one with `fromnoise classifier train`."
            )
        loaded = load_classifier(classifier, device=device)
        loaded.check(np.empty((0, *shape), dtype=np.uint8))
        return classifier_features(loaded)
    if name == "inception":
        return inception(features_weights, device=select_device(device))
    return dinov2(device=select_device(device))


def pixels(shape: tuple[int, int, int]) -> Extractor:
    """Return pixels in [0, 1], averaged to at most 32×32: D = C·H·W ≤ 1,024 C."""
    channels, height, width = shape
    small = (min(height, MAX_SIDE), min(width, MAX_SIDE))

    def extract(images: np.ndarray) -> Features:
        x = torch.from_numpy(np.array(images)).float() / 255
        if small != (height, width):
            x = torch.nn.functional.adaptive_avg_pool2d(x, small)
        return Features(x.flatten(1).numpy())

    resize = "none" if small == (height, width) else f"averaged to {small[0]}×{small[1]}"
    return Extractor("pixels", channels * small[0] * small[1], "", resize, extract)


def classifier_features(classifier: Classifier) -> Extractor:
    """Return the input of a classifier's last layer, D = 512, and the logits if it has classes."""

    def extract(images: np.ndarray) -> Features:
        features, logits = classifier.features(images)
        return Features(features, logits if classifier.spec.kind == "classes" else None)

    nothing = np.empty((0, classifier.spec.channels, *classifier.spec.size), np.uint8)
    width = extract(nothing).features.shape[1]
    return Extractor("classifier", width, hash_of(classifier.network.state_dict()), "none", extract)


def inception(weights: Path | None, *, device: torch.device) -> Extractor:
    """Return Inception V3 of torch-fidelity: 2,048 features, and 1,008 logits without bias.

    Images are resized to 299×299 as in TensorFlow 1: the protocol of FID. weights: a file of that
    library; None downloads it once.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as library

    url = library.URL_INCEPTION_V3
    downloaded = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if weights is not None:
        if not weights.is_file():
            raise ExtractorError(f"{weights.absolute()} does not exist. {ALTERNATIVES}")
        try:  # torch-fidelity would run the code in a file
            torch.load(weights, weights_only=True, map_location="cpu")
        except Exception as error:  # of any kind while unpickling
            raise ExtractorError(
                f"{weights.absolute()} is no file of tensors. Give one that torch.save wrote."
            ) from error
    try:
        network = library.FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except OSError as error:  # such as no network
        raise ExtractorError(
            f"Inception's weights are missing and the download failed ({error}). Download "
            f"{url} elsewhere, and copy it to {downloaded} or give it as "
            f"--features-weights. {ALTERNATIVES}"
        ) from error
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ExtractorError(
            f"{weights or downloaded} has no weights of torch-fidelity's Inception V3: {detail}"
        ) from error
    resize = "to 299×299, bilinear as in TensorFlow 1"
    extract = _in_batches(network.to(device))
    return Extractor("inception", 2048, sha256(weights or downloaded), resize, extract)


def dinov2(*, device: torch.device) -> Extractor:
    """Return DINOv2 ViT-B/14 of torch-fidelity: 768 features, no logits."""
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    try:
        network = FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"])
    except (OSError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ExtractorError(
            f"DINOv2 is missing and the download failed ({detail}). Run `torch.hub.load("
            '"facebookresearch/dinov2", "dinov2_vitb14")` elsewhere, and copy its files to '
            f"{torch.hub.get_dir()}. {ALTERNATIVES}"
        ) from error
    resize = "to 224×224, bilinear as in TensorFlow 1"
    weights = hash_of(network.state_dict())
    return Extractor("dinov2", 768, weights, resize, _in_batches(network.to(device)))


def extract_features(
    extractor: Extractor,
    images: np.ndarray,
    progress: Progress = no_progress,
    *,
    out: np.ndarray | None = None,
) -> Features:
    """Return the features of images uint8 (N, C, H, W), in `out` (N, D) if it is given.

    Raises ExtractorError for features that are not finite.
    """
    out = np.empty((len(images), extractor.width), np.float32) if out is None else out
    logits = []
    for i in range(0, len(images), PART):
        rows = slice(i, min(i + PART, len(images)))
        part = extractor.extract(images[rows])
        if broken := int((~np.isfinite(part.features)).any(axis=1).sum()):
            raise ExtractorError(
                f"{extractor.name} gives features that are NaN or infinite for {broken} of the "
                f"images {rows.start}-{rows.stop - 1}. Check its weights."
            )
        out[rows] = part.features
        logits += [] if part.logits is None else [part.logits]
        progress(rows.stop, len(images))
    return Features(out, np.concatenate(logits) if logits else None)


def _in_batches(network: nn.Module) -> Callable[[np.ndarray], Features]:
    device = next(network.parameters()).device

    def extract(images: np.ndarray) -> Features:
        parts = []
        with torch.inference_mode(), without_tf32():
            for i in range(0, len(images), BATCH_SIZE):
                batch = torch.from_numpy(np.array(images[i : i + BATCH_SIZE])).to(device)
                batch = batch.expand(-1, 3, -1, -1)  # grey is repeated
                parts.append([out.cpu().numpy() for out in network(batch)])
        return Features(*map(np.concatenate, zip(*parts, strict=True)))

    return extract
