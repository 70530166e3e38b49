"""The evaluator of i-CLEVR, as courses and papers hand it on → a classifier of ours.

A ResNet-18 of torchvision whose last layer is a linear one to 24 labels and a sigmoid, `fc.0` of
`fc`, for RGB images of 64×64 pixels in [−1, 1]; saved as {"model": state dict} or the state dict
alone, with or without `module.` or `resnet18.` before each name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.classifier.classifier import Classifier, ClassifierSpec, classifier_from_weights
from fromnoise.interop.torch_files import preview_keys, read_payload, strip_prefixes

STEM, HEAD = "conv1.weight", "fc.0.weight"


def import_evaluator(
    file: str | Path,
    label_names: Sequence[str],
    *,
    size: tuple[int, int] = (64, 64),
    device: str = "auto",
) -> Classifier:
    """The classifier with these weights.

    label_names: what the outputs stand for, in their order. size: (H, W) of the images that it
    was trained on, which the file does not say.
    Raises CheckpointError for a file that holds something else, or another number of labels.
    """
    file = Path(file)
    payload = read_payload(file)
    inner = payload.get("model", payload)
    weights = strip_prefixes(inner if isinstance(inner, Mapping) else {}, "module.", "resnet18.")
    stem, head = weights.get(STEM), weights.get(HEAD)
    tensors = all(isinstance(tensor, Tensor) for tensor in weights.values())
    if not tensors or stem is None or head is None or stem.ndim != 4 or head.ndim != 2:
        raise CheckpointError(
            f"{file} is no evaluator of i-CLEVR; expected the weights of a ResNet-18 of "
            f"torchvision with {STEM} and {HEAD}, keys preview_keys: "
            f"{preview_keys(weights or payload)}"
        )
    if len(head) != len(label_names):
        raise CheckpointError(
            f"{file} classifies {len(head)} labels ({HEAD}), but {len(label_names)} names are "
            "given; give the objects.json that it was trained with"
        )
    spec = ClassifierSpec(
        kind="labels",
        label_names=tuple(label_names),
        channels=stem.shape[1],
        size=size,
        stem="imagenet",
        source=f"imported: {file.name}",
    )
    ours = {name.replace("fc.0.", "fc."): tensor.float() for name, tensor in weights.items()}
    return classifier_from_weights(spec, ours, file, device=device)
