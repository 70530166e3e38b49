"""A classifier says which labels images show: a ResNet-18 that was trained on labelled images.

classifier/classifier.safetensors    the weights, and the whole `ClassifierSpec` in the metadata
      classifier.json           the same specification, for people to read
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError, TensorFile
from fromnoise.classifier.label_scores import LabelPredictions
from fromnoise.config.components import Section
from fromnoise.data.loader import to_float
from fromnoise.model import spec as model_file
from fromnoise.model.model import select_device

Kind = Literal["labels", "classes"]
Stem = Literal["small", "imagenet"]
METADATA_KEY = "fromnoise_classifier"
WEIGHTS, READABLE = "classifier.safetensors", "classifier.json"
EXPECTED = (
    "expected the folder that `fromnoise classifier train` or `fromnoise classifier import` wrote"
)


class ClassifierSpec(Section):
    """What a classifier says of itself."""

    format_version: int = checkpoints.FORMAT_VERSION
    kind: Kind  # each label yes or no (sigmoid), or exactly one of them (softmax)
    label_names: tuple[str, ...]
    channels: int
    size: tuple[int, int]  # (H, W)
    fit: Literal["crop", "pad", "squash"] = "crop"  # how images came to this size
    background: tuple[int, int, int] = (255, 255, 255)
    stem: Stem
    held_out: dict[str, float | None] = Field(default_factory=dict)  # None where it is 0/0
    held_out_f1: dict[str, float | None] = Field(default_factory=dict)  # of each label
    num_held_out: int = 0  # images that it was not trained on, which these scores are of
    source: str = ""  # the data it was trained on …
    fingerprint: str = ""  # … and of exactly those images and labels
    num_images: int = 0
    epochs: float = 0
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0
    seed: int = 0

    def metadata(self) -> dict[str, str]:
        """The specification as .safetensors metadata."""
        return {METADATA_KEY: self.model_dump_json()}


def build_network(spec: ClassifierSpec) -> nn.Module:
    """The untrained ResNet-18 (He et al. 2015) of a specification: (B,C,H,W) → logits (B,K).

    stem `imagenet`: as published, 7×7 with stride 2 and a pooling with stride 2. stem `small`: one
    3×3 convolution with stride 2, as a quarter of 32 pixels is too coarse a map to begin with.
    """
    from torchvision.models import resnet18  # it takes long, and few commands have a classifier

    network = resnet18(num_classes=len(spec.label_names))
    if spec.stem == "small":
        network.conv1 = _first_convolution(spec.channels, kernel=3)
        network.register_module("maxpool", nn.Identity())
    elif spec.channels != 3:
        network.conv1 = _first_convolution(spec.channels, kernel=7)
    return network


def _first_convolution(channels: int, *, kernel: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, 64, kernel, stride=2, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class Classifier:
    """A network in evaluation mode, on the device where it classifies."""

    def __init__(self, network: nn.Module, spec: ClassifierSpec) -> None:
        network.to(memory_format=torch.channels_last)
        self.network = network.eval().requires_grad_(False)
        self.spec = spec

    def predictions(self, images: np.ndarray, *, batch_size: int = 256) -> LabelPredictions:
        """Say of each image which labels it shows.

        Args:
            images: uint8 (N, C, H, W) of the classifier's own size. Grey ones are repeated for a classifier
                of three channels.
            batch_size: images at a time.

        Returns:
            probability (N, K): sigmoid of each logit for `labels`, softmax over them for `classes`;
            float64, so that few of them round to 1. present (N, K): probability ≥ 0.5 for
            `labels`; the likeliest alone for `classes`.

        Raises:
            ValueError: images of another type, size or number of channels.
        """
        logits = torch.from_numpy(self.features(images, batch_size=batch_size)[1]).double()
        if self.spec.kind == "labels":
            probability = logits.sigmoid().numpy()
            return LabelPredictions(probability, probability >= 0.5)
        probability = logits.softmax(dim=1).numpy()
        likeliest = probability.argmax(axis=1)
        return LabelPredictions(probability, likeliest[:, None] == np.arange(probability.shape[1]))

    def features(
        self, images: np.ndarray, *, batch_size: int = 256
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the last layer is given of each image, and its logits: (N, D) and (N, K), float32.

        Arguments and errors are those of `predictions`.
        """
        self.check(images)
        device = next(self.network.parameters()).device
        *body, last = self.network.children()  # in the order in which ResNet runs them
        assert isinstance(last, nn.Linear)
        to_features = nn.Sequential(*body, nn.Flatten())
        features, logits = (
            [torch.empty(0, last.in_features)],
            [torch.empty(0, len(self.spec.label_names))],
        )
        with torch.inference_mode():
            for i in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.array(images[i : i + batch_size])).to(device)
                x = to_float(batch.expand(-1, self.spec.channels, -1, -1))
                x = to_features(x.contiguous(memory_format=torch.channels_last))
                features.append(x.cpu())
                logits.append(last(x).cpu())
        return torch.cat(features).numpy(), torch.cat(logits).numpy()

    def check(self, images: np.ndarray) -> None:
        """Raise ValueError for images, (N, C, H, W), that this classifier cannot look at."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"a classifier looks at uint8 (N, C, H, W), not {images.dtype} {images.shape}"
            )
        (channels, *size), (height, width) = images.shape[1:], self.spec.size
        if tuple(size) != (height, width):
            raise ValueError(
                f"the images are {size[0]}×{size[1]} (H×W), but this classifier was trained at "
                f"{height}×{width}; train a classifier at the size of the images"
            )
        if channels not in (self.spec.channels, 1):
            raise ValueError(
                f"the images have {channels} channels, but this classifier was trained on "
                f"{self.spec.channels}; train a classifier with the channels of the images"
            )


def save_classifier(classifier: Classifier, folder: str | Path) -> Path:
    """Write a new folder with classifier.safetensors and classifier.json, complete or not at all.

    Raises FolderNotEmpty where `folder` has something in it.
    """
    folder = Path(folder).absolute()
    weights = classifier.network.state_dict()
    readable = json.dumps(classifier.spec.model_dump(mode="json"), indent=1, ensure_ascii=False)
    with checkpoints.atomic_folder(folder) as writing:
        checkpoints.write_tensors(
            writing / WEIGHTS, TensorFile(weights, classifier.spec.metadata())
        )
        (writing / READABLE).write_text(f"{readable}\n", encoding="utf-8")
    return folder


def load_classifier(path: str | Path, *, device: str = "auto") -> Classifier:
    """The classifier in a folder that `save_classifier` wrote, or in its .safetensors file.

    Raises CheckpointError when there is none, when it is damaged, too new, or something else.
    """
    file = _find_classifier_file(Path(path))
    stored = checkpoints.read_tensors(file)
    spec = _read_spec(stored.metadata, file)
    return with_weights(spec, stored.tensors, file, device=device)


def with_weights(
    spec: ClassifierSpec, weights: Mapping[str, Tensor], file: Path, *, device: str = "auto"
) -> Classifier:
    """The classifier of a specification with weights that were read from `file`.

    Raises CheckpointError where they are not those of this network, or not finite.
    """
    network = build_network(spec)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} does not hold what it says it holds: {detail}") from error
    if broken := checkpoints.first_non_finite(network.state_dict()):
        raise CheckpointError(f"{file} is damaged: {broken} is not finite")
    return Classifier(network.to(select_device(device)), spec)


def _find_classifier_file(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"there is nothing at {path.absolute()}; {EXPECTED}")
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    of_a_model = (*model_file.FILE_OF.values(), "checkpoints")
    what = "holds a diffusion model, not a classifier"
    if not any((path / name).exists() for name in of_a_model):
        what = f"is no classifier: it has no {WEIGHTS}"
    raise CheckpointError(f"{path.absolute()} {what}; {EXPECTED}")


def _read_spec(metadata: Mapping[str, str], file: Path) -> ClassifierSpec:
    if METADATA_KEY not in metadata:
        what = "holds a diffusion model, not" if model_file.METADATA_KEY in metadata else "is not"
        raise CheckpointError(f"{file} {what} a classifier; {EXPECTED}")
    try:
        tree = json.loads(metadata[METADATA_KEY])
        checkpoints.check_version(tree["format_version"], file)
        return ClassifierSpec.model_validate(tree)
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: its metadata cannot be read: {detail}") from error
