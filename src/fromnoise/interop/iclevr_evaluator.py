"""Import the i-CLEVR evaluator of courses and papers as a classifier.

It is a ResNet-18 of torchvision for RGB images of 64×64 pixels in [−1, 1]. Its last layer `fc` is
a linear layer `fc.0` to 24 labels and a sigmoid. The file has {"model": state dict} or the state
dict, under any prefix, such as `module.` or `resnet18.`.
"""

from collections.abc import Sequence
from pathlib import Path

from fromnoise.checkpoints import CheckpointError
from fromnoise.classifier.classifier import Classifier, ClassifierSpec, classifier_from_weights
from fromnoise.interop.torch_files import (
    find_networks,
    not_loaded,
    preview_keys,
    read_payload,
    state_dicts,
)

STEM, HEAD = "conv1.weight", "fc.0.weight"


def import_evaluator(
    file: str | Path,
    label_names: Sequence[str],
    *,
    size: tuple[int, int] = (64, 64),
    device: str = "auto",
) -> Classifier:
    """Return the classifier with these weights.

    label_names: the labels of the outputs, in order. size: (H, W) of its training images. Raises
    CheckpointError if the file is not such an evaluator or has another number of labels.
    """
    file = Path(file)
    payload, left_out = read_payload(file)
    networks = find_networks(payload, {STEM, HEAD})
    weights = networks.first.weights if networks else {}
    stem, head = weights.get(STEM), weights.get(HEAD)
    if stem is None or head is None or stem.ndim != 4 or head.ndim != 2:
        if left_out and not any(state_dicts(payload)):
            raise not_loaded(file, left_out)
        raise CheckpointError(
            f"{file} is not an i-CLEVR evaluator. Give the weights of a torchvision ResNet-18 with "
            f"{STEM} and {HEAD}. Its keys are: {preview_keys(payload)}"
        )
    if len(head) != len(label_names):
        raise CheckpointError(
            f"{file} has {len(head)} labels ({HEAD}), but there are {len(label_names)} names. Give "
            "the objects.json of its training."
        )
    spec = ClassifierSpec(
        kind="labels",
        label_names=tuple(label_names),
        channels=stem.shape[1],
        size=size,
        stem="imagenet",
        source=f"imported: {file.name}",
    )
    state = {name.replace("fc.0.", "fc."): tensor.float() for name, tensor in weights.items()}
    return classifier_from_weights(spec, state, file, device=device)
