"""Images → features, in whose space sets of images are compared."""

import hashlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fromnoise.checkpoints import sha256
from fromnoise.classifier.classifier import Classifier, load_classifier
from fromnoise.model.model import select_device

ALTERNATIVES = (
    "`--extractor classifier --classifier FOLDER` and `--extractor pixels` work without it"
)
MAX_SIDE = 32  # a side, of what is compared as pixels: larger covariances take hours
BATCH_SIZE, PART = 64, 512  # images in a network, and images between two signs of progress
Progress = Callable[[int, int], None]  # (images done, of how many)


class ExtractorError(ValueError):
    """Features cannot be had: what is missing, where it belongs, and what works without it."""


class Features(NamedTuple):
    """What an extractor says of N images."""

    features: np.ndarray  # float32 (N, D)
    logits: np.ndarray | None  # float32 (N, K), of its classes; None where it has none


class Extractor(NamedTuple):
    """A function of images, and all that must be equal before two sets of features are compared."""

    name: str
    width: int  # D
    weights: str  # SHA-256 (hex) of its weights; "" where it has none
    resize: str  # what it does to images of another size than its own
    extract: Callable[[np.ndarray], Features]  # uint8 (N, C, H, W)


def check_installed() -> None:
    """Raise ExtractorError where the libraries of the extra `eval` are missing."""
    if missing := [name for name in ("torch_fidelity", "scipy") if find_spec(name) is None]:
        raise ExtractorError(
            f"{' and '.join(missing)} is not installed; the extra `eval` brings it: "
            "pip install -e '.[eval]'"
        )


def select_extractor(
    name: str | None, *, classifier: Path | None = None, features_weights: Path | None = None
) -> str:
    """The extractor that is meant: the named one, else `classifier` where there is one, else inception.

    Raises ExtractorError for what belongs to another extractor.
    """
    name = name or ("inception" if classifier is None else "classifier")
    for option, given in {
        "--classifier": classifier,
        "--features-weights": features_weights,
    }.items():
        if given is not None and name != EXTRACTOR_OF[option]:
            raise ExtractorError(
                f"{option} belongs to --extractor {EXTRACTOR_OF[option]}, not to {name}; leave one out"
            )
    return name


def open_extractor(
    name: str,
    shape: tuple[int, int, int],
    *,
    classifier: Classifier | None = None,
    weights: Path | None = None,
    device: torch.device,
) -> Extractor:
    """One of EXTRACTORS for images of `shape` (C, H, W).

    classifier: for `classifier`. weights: a file of Inception's, for `inception`; None for the one that
    torch-fidelity fetches.
    Raises ExtractorError for an unknown name, for images that it cannot look at, and where
    something is missing; ValueError for images that are not of the classifier's kind.
    """
    if name not in EXTRACTORS:
        raise ExtractorError(f"there is no extractor {name!r}; allowed: {', '.join(EXTRACTORS)}")
    if name in PRETRAINED and shape[0] not in (1, 3):
        raise ExtractorError(
            f"{name} looks at images of 1 or 3 channels, and these have {shape[0]}; " + ALTERNATIVES
        )
    if name == "pixels":
        return pixels(shape)
    if name == "classifier":
        if classifier is None:
            raise ExtractorError(
                "--extractor classifier needs --classifier FOLDER, which `fromnoise "
                "classifier train` writes"
            )
        classifier.check(np.empty((0, *shape), dtype=np.uint8))
        return classifier_features(classifier)
    return inception(weights, device=device) if name == "inception" else dinov2(device=device)


def load_extractor(
    name: str,
    shape: tuple[int, int, int],
    *,
    classifier: Path | None = None,
    features_weights: Path | None = None,
    device: str = "auto",
) -> Extractor:
    """Return one of EXTRACTORS for images of `shape` (C, H, W), with its files loaded.

    Raises the errors of `open_extractor` and `load_classifier`.
    """
    return open_extractor(
        name,
        shape,
        classifier=None if classifier is None else load_classifier(classifier, device=device),
        weights=features_weights,
        device=select_device(device),
    )


def pixels(shape: tuple[int, int, int]) -> Extractor:
    """The pixels themselves in [0, 1], averaged to at most 32×32 of them: D = C·H·W ≤ 1,024 C."""
    channels, height, width = shape
    small = (min(height, MAX_SIDE), min(width, MAX_SIDE))

    def extract(images: np.ndarray) -> Features:
        x = torch.from_numpy(np.array(images)).float() / 255
        if small != (height, width):
            x = torch.nn.functional.adaptive_avg_pool2d(x, small)
        return Features(x.flatten(1).numpy(), None)

    resize = "none" if small == (height, width) else f"averaged to {small[0]}×{small[1]}"
    return Extractor("pixels", channels * small[0] * small[1], "", resize, extract)


def classifier_features(classifier: Classifier) -> Extractor:
    """What the last layer of a classifier is given, D = 512; the logits if it tells classes apart."""

    def extract(images: np.ndarray) -> Features:
        features, logits = classifier.features(images)
        return Features(features, logits if classifier.spec.kind == "classes" else None)

    width = extract(
        np.empty((0, classifier.spec.channels, *classifier.spec.size), np.uint8)
    ).features.shape[1]
    return Extractor("classifier", width, digest(classifier.network), "none", extract)


def inception(weights: Path | None, *, device: torch.device) -> Extractor:
    """Inception V3 as torch-fidelity computes it: 2,048 features, and 1,008 logits without bias.

    Images are brought to 299×299 as TensorFlow 1 did it; that is the protocol of FID. weights: a
    file of that library's; None for the one that it fetches, or has fetched before.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as library

    kept = Path(torch.hub.get_dir()) / "checkpoints" / library.URL_INCEPTION_V3.rsplit("/", 1)[1]
    if weights is not None:
        _check_weights_file(weights)
    try:
        network = library.FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except OSError as error:  # such as no network
        raise ExtractorError(
            f"Inception's weights are not here and cannot be fetched ({error}): download "
            f"{library.URL_INCEPTION_V3} elsewhere, and put it at {kept} or give it as "
            f"--features-weights; {ALTERNATIVES}"
        ) from error
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ExtractorError(
            f"{weights or kept} has no weights of torch-fidelity's Inception V3: {detail}"
        ) from error
    resize = "to 299×299, bilinear as in TensorFlow 1"
    extract = _in_batches(network.to(device))
    return Extractor("inception", 2048, sha256(weights or kept), resize, extract)


def dinov2(*, device: torch.device) -> Extractor:
    """DINOv2 ViT-B/14 as torch-fidelity computes it: 768 features, no logits."""
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    try:
        network = FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"])
    except (OSError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ExtractorError(
            f"DINOv2 is not here and cannot be fetched ({detail}): `torch.hub.load("
            '"facebookresearch/dinov2", "dinov2_vitb14")` on another machine fills '
            f"{torch.hub.get_dir()}, which can be copied here; {ALTERNATIVES}"
        ) from error
    resize = "to 224×224, bilinear as in TensorFlow 1"
    return Extractor("dinov2", 768, digest(network), resize, _in_batches(network.to(device)))


def no_progress(done: int, total: int) -> None:
    """Progress that nobody sees."""


def extract_in_parts(
    extractor: Extractor, images: np.ndarray, progress: Progress = no_progress
) -> Iterator[tuple[slice, Features]]:
    """The features of images, uint8 (N, C, H, W), some at a time: (rows, those of these rows).

    Raises ExtractorError where they are not finite.
    """
    for i in range(0, len(images), PART):
        rows = slice(i, min(i + PART, len(images)))
        part = extractor.extract(images[rows])
        broken = int((~np.isfinite(part.features)).any(axis=1).sum())
        if broken:
            raise ExtractorError(
                f"{extractor.name} gives features that are NaN or infinite, for {broken} of the "
                f"images {rows.start}-{rows.stop - 1}: are its weights damaged?"
            )
        yield rows, part
        progress(rows.stop, len(images))


EXTRACTOR_OF = {"--classifier": "classifier", "--features-weights": "inception"}
PRETRAINED = ("inception", "dinov2")
EXTRACTORS = (*PRETRAINED, "classifier", "pixels")


def digest(network: nn.Module) -> str:
    """SHA-256 (hex) of all weights with their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _in_batches(network: nn.Module) -> Callable[[np.ndarray], Features]:
    device = next(network.parameters()).device

    def extract(images: np.ndarray) -> Features:
        outputs = []
        with torch.inference_mode():
            for i in range(0, len(images), BATCH_SIZE):
                batch = torch.from_numpy(np.array(images[i : i + BATCH_SIZE])).to(device)
                batch = batch.expand(-1, 3, -1, -1)  # grey is repeated
                outputs.append([out.cpu().numpy() for out in network(batch)])
        features, *logits = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return Features(features, logits[0] if logits else None)

    return extract


def _check_weights_file(path: Path) -> None:
    """torch-fidelity would run whatever code a file holds; one of tensors alone has none."""
    if not path.is_file():
        raise ExtractorError(f"there is no file {path.absolute()}; {ALTERNATIVES}")
    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever unpickling meets
        raise ExtractorError(f"{path.absolute()} is no file of tensors that torch saved") from error
