import argparse
import copy
import functools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fromnoise.checkpoints import CheckpointError
from fromnoise.classifier.classifier import load_classifier
from fromnoise.interop.iclevr_evaluator import import_evaluator

NAMES = tuple(f"object {i}" for i in range(24))


@functools.cache
def evaluator(labels=24, channels=3):
    """As it is handed on, with running statistics and weights of no particular kind."""
    torch.manual_seed(0)
    network = resnet18()
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.fc = nn.Sequential(nn.Linear(512, labels), nn.Sigmoid())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.1)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def write(file, network, *, prefix="", key="model"):
    state = OrderedDict((prefix + name, tensor) for name, tensor in network.state_dict().items())
    args = argparse.Namespace(lr=1e-3)  # an object that is left out
    torch.save({key: state, "optimizer": {"lr": 1e-3}, "args": args} if key else state, file)
    return file


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("", "model"),
        ("", None),
        ("resnet18.", "model"),
        ("module.resnet18.", None),
        ("_orig_mod.", "state_dict"),
        ("model._orig_mod.resnet18.module.", "model_state_dict"),
    ],
)
def test_gives_the_same_probabilities(tmp_path, images, prefix, key):
    network = evaluator()
    classifier = import_evaluator(write(tmp_path / "c.pth", network, prefix=prefix, key=key), NAMES)
    with torch.no_grad():  # normalised as the evaluator's own transform does: (x − 0.5) / 0.5
        expected = network((torch.from_numpy(images) / 255 - 0.5) / 0.5)
    probability, present = classifier.predictions(images)
    np.testing.assert_allclose(probability, expected.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(present, expected.numpy() >= 0.5)
    assert expected.std() > 0.01  # it tells the images and labels apart


def test_the_imported_classifier_is_written_and_read_again(tmp_path, images):
    classifier = import_evaluator(write(tmp_path / "checkpoint.pth", evaluator()), NAMES)
    again = load_classifier(classifier.save(tmp_path / "classifier"))
    assert again.spec == classifier.spec
    assert (again.spec.kind, again.spec.stem, again.spec.size) == ("labels", "imagenet", (64, 64))
    assert again.spec.label_names == NAMES
    assert again.spec.source == "imported: checkpoint.pth"
    np.testing.assert_array_equal(
        again.predictions(images).probability, classifier.predictions(images).probability
    )


def test_other_numbers_of_labels_and_channels(tmp_path, images):
    file = write(tmp_path / "c.pth", evaluator(labels=3, channels=1))
    classifier = import_evaluator(file, "abc", size=(32, 48))
    assert classifier.spec.channels == 1
    assert classifier.predictions(images[:, :1, :32, :48]).probability.shape == (5, 3)
    with pytest.raises(CheckpointError, match=r"has 3 labels .* there are 24 names"):
        import_evaluator(file, NAMES)


def test_other_files_are_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "other.pth")
    torch.save({"model": 3}, tmp_path / "number.pth")
    plain = resnet18(num_classes=24)
    for file in (tmp_path / "other.pth", tmp_path / "number.pth", write(tmp_path / "p.pth", plain)):
        with pytest.raises(CheckpointError, match=r"is not an i-CLEVR evaluator.*keys are: \w"):
            import_evaluator(file, NAMES)


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(tmp_path):
    network = copy.deepcopy(evaluator())
    state = dict(network.state_dict())
    del state["layer3.1.conv2.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth.*layer3\.1\.conv2\.weight"):
        import_evaluator(tmp_path / "part.pth", NAMES)
    with torch.no_grad():
        network.bn1.bias[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"bn1\.bias is not finite"):
        import_evaluator(write(tmp_path / "nan.pth", network), NAMES)
