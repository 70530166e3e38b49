"""Predict the labels of images with a ResNet-18; save and load it.

classifier/classifier.safetensors   the weights, with the `ClassifierSpec` in the metadata
           classifier.json          the same specification, to read
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
from fromnoise.model.precision import without_tf32

Kind = Literal["labels", "classes"]
Stem = Literal["small", "imagenet"]
METADATA_KEY, OLD_METADATA_KEY = "fromnoise_classifier", "fromnoise_judge"
WEIGHTS_FILE, OLD_WEIGHTS_FILE = "classifier.safetensors", "judge.safetensors"
SPEC_FILE = "classifier.json"
BATCH_SIZE = 256  # images at a time
FIX = "Give the folder that `fromnoise classifier train` or `fromnoise classifier import` wrote."


class ClassifierSpec(Section):
    """The specification of a classifier, stored with its weights."""

    format_version: int = checkpoints.FORMAT_VERSION
    kind: Kind  # independent labels (sigmoid), or exactly one class (softmax)
    label_names: tuple[str, ...]
    channels: int
    size: tuple[int, int]  # (H, W)
    fit: Literal["crop", "pad", "squash"] = "crop"  # how images were resized
    background: tuple[int, int, int] = (255, 255, 255)
    stem: Stem
    held_out: dict[str, float | None] = Field(default_factory=dict)  # scores; None for 0/0
    held_out_f1: dict[str, float | None] = Field(default_factory=dict)  # F1 of each label
    num_held_out: int = 0  # images that these scores were measured on
    source: str = ""  # of the training data
    fingerprint: str = ""  # of the training images and their labels
    num_images: int = 0
    epochs: float = 0
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0
    seed: int = 0


def build_network(spec: ClassifierSpec) -> nn.Module:
    """Build the untrained ResNet-18 (He et al. 2015) of a specification: (B,C,H,W) → logits (B,K).

    stem `imagenet`: as published, 7×7 with stride 2 and a pooling with stride 2. stem `small`: one
    3×3 convolution with stride 2, because a quarter of 32 pixels is too coarse for the first map.
    """
    from torchvision.models import resnet18  # slow to import, and few commands need it

    network = resnet18(num_classes=len(spec.label_names))
    if spec.stem == "small" or spec.channels != 3:
        kernel = 3 if spec.stem == "small" else 7
        first = nn.Conv2d(spec.channels, 64, kernel, stride=2, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        network.conv1 = first
    if spec.stem == "small":
        network.register_module("maxpool", nn.Identity())
    return network


class Classifier:
    """A network in evaluation mode with its specification."""

    def __init__(self, network: nn.Module, spec: ClassifierSpec) -> None:
        network.to(memory_format=torch.channels_last)
        self.network = network.eval().requires_grad_(False)
        self.spec = spec

    def predictions(self, images: np.ndarray) -> LabelPredictions:
        """Predict the labels of each image: uint8 (N, C, H, W) of the classifier's size.

        Grey images are repeated for a classifier with three channels. The probability is the
        sigmoid of each logit for `labels`, the softmax over them for `classes`; float64, so that
        few of them round to 1. Present is a probability ≥ 0.5 for `labels`, only the likeliest for
        `classes`.
        Raises ValueError: images of another type, size or number of channels.
        """
        logits = torch.from_numpy(self.features(images)[1]).double()
        if self.spec.kind == "labels":
            probability = logits.sigmoid().numpy()
            return LabelPredictions(probability, probability >= 0.5)
        probability = logits.softmax(dim=1).numpy()
        likeliest = probability.argmax(axis=1)
        return LabelPredictions(probability, likeliest[:, None] == np.arange(probability.shape[1]))

    def features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the input of the last layer and the logits: (N, D) and (N, K), float32.

        Arguments and errors are those of `predictions`.
        """
        self.check(images)
        device = next(self.network.parameters()).device
        *body, last = self.network.children()  # in the order in which ResNet runs them
        assert isinstance(last, nn.Linear)
        to_features = nn.Sequential(*body, nn.Flatten())
        features = [torch.empty(0, last.in_features)]
        logits = [torch.empty(0, last.out_features)]
        with torch.inference_mode(), without_tf32():
            for i in range(0, len(images), BATCH_SIZE):
                batch = torch.from_numpy(np.array(images[i : i + BATCH_SIZE])).to(device)
                x = to_float(batch.expand(-1, self.spec.channels, -1, -1))
                x = to_features(x.contiguous(memory_format=torch.channels_last))
                features.append(x.cpu())
                logits.append(last(x).cpu())
        return torch.cat(features).numpy(), torch.cat(logits).numpy()

    def check(self, images: np.ndarray) -> None:
        """Raise ValueError unless images, (N, C, H, W), have this classifier's type and shape."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"the images are {images.dtype} {images.shape}. Give uint8 (N, C, H, W)."
            )
        channels, height, width = images.shape[1:]
        if (height, width) != self.spec.size or channels not in (self.spec.channels, 1):
            trained_on = "{}×{} (H×W) with {} channels".format(*self.spec.size, self.spec.channels)
            raise ValueError(
                f"the images are {height}×{width} (H×W) with {channels} channels, but this "
                f"classifier was trained on {trained_on}. Train a classifier on such images."
            )

    def save(self, folder: str | Path) -> Path:
        """Write a new folder with classifier.safetensors and classifier.json, or nothing at all.

        Raises FolderNotEmpty if `folder` is not empty.
        """
        folder = Path(folder).absolute()
        text = json.dumps(self.spec.model_dump(mode="json"), indent=1, ensure_ascii=False)
        with checkpoints.atomic_folder(folder) as writing:
            metadata = {METADATA_KEY: self.spec.model_dump_json()}
            weights = TensorFile(self.network.state_dict(), metadata)
            alone = checkpoints.with_own_hash(weights)
            checkpoints.write_tensors(writing / WEIGHTS_FILE, alone)
            (writing / SPEC_FILE).write_text(f"{text}\n", encoding="utf-8")
        return folder


def load_classifier(path: str | Path, *, device: str = "auto") -> Classifier:
    """Load a classifier from a folder that `Classifier.save` wrote, or its .safetensors file.

    Raises CheckpointError if it is missing, damaged, too new, or not a classifier.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is nothing at {path.absolute()}. {FIX}")
    files = (path, path / WEIGHTS_FILE, path / OLD_WEIGHTS_FILE)
    file = next((file for file in files if file.is_file()), None)
    weights, metadata = checkpoints.read_tensors(file) if file else TensorFile({}, {})
    text = metadata.get(METADATA_KEY, metadata.get(OLD_METADATA_KEY))
    if file is None or text is None:
        problem = "is not a classifier" + ("" if file else f": {WEIGHTS_FILE} is missing")
        if model_file.METADATA_KEY in metadata or (file is None and model_file.is_model(path)):
            problem = "holds a diffusion model, not a classifier"
        raise CheckpointError(f"{file or path.absolute()} {problem}. {FIX}")
    try:
        values = json.loads(text)
        checkpoints.check_version(values["format_version"], file)
        spec = ClassifierSpec.model_validate(values)
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: the metadata cannot be read: {detail}") from error
    return classifier_from_weights(spec, weights, file, device=device)


def classifier_from_weights(
    spec: ClassifierSpec, weights: Mapping[str, Tensor], file: Path, *, device: str = "auto"
) -> Classifier:
    """Build the classifier of a specification with weights that were read from `file`.

    Raises CheckpointError if the weights do not fit the network, or are not finite.
    """
    network = build_network(spec)
    checkpoints.load_weights(network, weights, file)
    if name := checkpoints.first_non_finite(network.state_dict()):
        raise CheckpointError(f"{file} is damaged: {name} is not finite")
    return Classifier(network.to(select_device(device)), spec)
