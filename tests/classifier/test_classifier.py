import json
import logging
import math
import struct

import numpy as np
import pytest
import torch
from torch import nn

from fromnoise.checkpoints import (
    CheckpointError,
    NotFinite,
    TensorFile,
    read_tensors,
    write_tensors,
)
from fromnoise.classifier import classifier as judge_module
from fromnoise.classifier import training as judge_training
from fromnoise.classifier.classifier import (
    METADATA_KEY,
    Classifier,
    ClassifierSpec,
    load_classifier,
    save_classifier,
)
from fromnoise.classifier.data import divide, kind_of
from fromnoise.classifier.training import (
    classifier_loss,
    learning_rate,
    settle,
    shifted,
    train_classifier,
    train_classifier_to_folder,
    trains_in_bf16,
)
from fromnoise.data import DataError, ImageSet, open_images

NAMES = ("red", "green", "blue")
CORNERS = ((2, 2), (2, 9), (9, 2))


def squares(count, *, seed=0, size=16, labels=None):
    """Noise with a square for each label that is present: its own colour in its own place."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.choice([-1, 1], (count, len(NAMES))).astype(np.int8)
    images = rng.integers(60, 120, (count, 3, size, size), dtype=np.uint8)
    for k, (y, x) in enumerate(CORNERS):
        images[labels[:, k] > 0, k, y : y + 5, x : x + 5] = 255
    return of(images, labels)


def of(images, labels, names=NAMES):
    return ImageSet(images, labels, names, fingerprint="f", skipped=(), source="npz")


def small_network(spec):
    """Four layers that learn the squares in a second; initialised by torch's global seed."""
    return nn.Sequential(
        nn.Conv2d(spec.channels, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, len(spec.label_names)),
    )


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(judge_module, "build_network", small_network)
    monkeypatch.setattr(judge_training, "build_network", small_network)


@pytest.fixture(scope="module")
def digits_judge(tmp_path_factory):
    """A ResNet-18 after 25 steps, and its folder. Not to be written to."""
    out = tmp_path_factory.mktemp("classifies") / "digits"
    return train_classifier_to_folder("digits", out, epochs=1, device="cpu"), out


def described(**changes):
    known = {"kind": "labels", "label_names": NAMES, "channels": 3, "size": (16, 16)}
    return ClassifierSpec(**{**known, "stem": "small", **changes})


def untrained(**changes):
    spec = described(**changes)
    torch.manual_seed(1)
    return Classifier(judge_module.build_network(spec), spec)


def f1_of(present, labels):
    wanted = labels > 0
    return 2 * (present & wanted).sum() / (present.sum() + wanted.sum())


# ---- what it learns -----------------------------------------------------------------------------


def test_a_judge_of_digits(digits_judge):
    classifier, _ = digits_judge
    digits = open_images("digits")
    assert (classifier.spec.kind, classifier.spec.stem, classifier.spec.size) == (
        "classes",
        "small",
        (8, 8),
    )
    assert classifier.spec.label_names == digits.label_names
    assert classifier.spec.fingerprint == digits.fingerprint
    assert (classifier.spec.num_images, classifier.spec.num_held_out) == (1617, 180)
    train, test = divide(digits, None, seed=0)
    assert set(train.rows) | set(test.rows) == set(range(1797))
    probability, present = classifier.predictions(digits.images[test.rows])
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    right = probability.argmax(axis=1) == digits.labels[test.rows].argmax(axis=1)
    assert right.mean() >= 0.9
    assert classifier.spec.held_out == {"accuracy": right.mean()}
    assert (present.sum(axis=1) == 1).all()
    sevens = digits.labels[test.rows][:, 7] > 0
    assert classifier.spec.held_out_f1["7"] == pytest.approx(f1_of(present[:, 7], sevens))


def test_a_judge_of_many_labels():
    classifier = train_classifier(squares(320), epochs=2, batch_size=32, device="cpu")
    fresh = squares(200, seed=5)
    probability, present = classifier.predictions(fresh.images)
    assert classifier.spec.kind == "labels"
    assert f1_of(present, fresh.labels) >= 0.95
    np.testing.assert_array_equal(present, probability >= 0.5)
    assert set(classifier.spec.held_out) == {
        "f1",
        "precision",
        "recall",
        "exact_match",
        "recall_at_k",
    }
    assert classifier.spec.num_held_out == 32


def test_what_is_not_said_is_neither_learned_nor_scored(small):
    """The squares are drawn by the true labels; a third of what is written of them is unsaid."""
    true = squares(300)
    said = true.labels * (np.random.default_rng(3).random(true.labels.shape) < 2 / 3)
    said[:20] = 0
    classifier = train_classifier(of(true.images, said.astype(np.int8)), epochs=15, batch_size=32)
    labelled = int(said.any(axis=1).sum())
    assert classifier.spec.num_images + classifier.spec.num_held_out == labelled <= 280
    fresh = squares(200, seed=5)
    assert f1_of(classifier.predictions(fresh.images).present, fresh.labels) >= 0.95
    assert classifier.spec.held_out["f1"] >= 0.9


def test_the_same_seed_gives_the_same_judge(small):
    data = squares(100)
    one, again, other = (train_classifier(data, epochs=2, batch_size=32, seed=s) for s in (0, 0, 1))
    assert one.spec == again.spec
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert not torch.equal(one.network[0].weight, other.network[0].weight)
    assert set(divide(data, None, seed=0)[1].rows) != set(divide(data, None, seed=1)[1].rows)


def test_the_first_weights_are_not_all(small):
    """Order and shifts are functions of the seed as well, whatever was drawn before."""
    data = squares(100)
    torch.manual_seed(7)
    one = train_classifier(data, epochs=1, batch_size=32)
    torch.rand(3)
    again = train_classifier(data, epochs=1, batch_size=32)
    assert torch.equal(one.network[5].weight, again.network[5].weight)


# ---- its parts ----------------------------------------------------------------------------------


def test_the_normalisation_is_measured_with_the_last_weights():
    data = divide(squares(300), None, seed=0)[0]
    network = small_network(described()).train()
    with torch.no_grad():
        before = network[0](torch.from_numpy(data.images[data.rows]) / 127.5 - 1)
        network(torch.randn(4, 3, 16, 16) + 9)  # something to forget
    settle(network, data)
    values = before.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(network[1].running_mean.double(), values.mean(dim=1))
    torch.testing.assert_close(network[1].running_var.double(), values.var(dim=1))


def test_the_loss_is_the_mean_over_what_is_said():
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(np.random.default_rng(0).integers(-1, 2, (6, 4)))
    probability = 1 / (1 + torch.exp(-logits.detach()))
    terms = [
        -math.log(probability[i, k] if labels[i, k] > 0 else 1 - probability[i, k])
        for i, k in labels.nonzero().tolist()
    ]
    assert 0 < len(terms) < labels.numel()
    loss = classifier_loss(logits, labels, "labels")
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = (probability - (labels > 0).double()) / len(terms)
    torch.testing.assert_close(gradient, expected * (labels != 0), rtol=1e-10, atol=0)
    elsewhere = logits.detach() + 5 * torch.randn(6, 4) * (labels == 0)
    assert classifier_loss(elsewhere, labels, "labels") == loss


def test_the_loss_of_classes_is_the_cross_entropy():
    logits = torch.randn(5, 3, dtype=torch.float64)
    classes = torch.tensor([0, 2, 1, 1, 0])
    labels = 2 * torch.eye(3, dtype=torch.int8)[classes] - 1
    chosen = logits.exp()[torch.arange(5), classes] / logits.exp().sum(dim=1)
    expected = -chosen.log().mean().item()
    assert classifier_loss(logits, labels, "classes").item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([[1, -1, -1], [-1, -1, 1]], "classes"),
        ([[1, -1, -1], [1, -1, 1]], "labels"),
        ([[1, -1, -1], [-1, -1, -1]], "labels"),
        ([[1, -1, -1], [0, -1, 1]], "labels"),
    ],
)
def test_classes_are_exactly_one_label_an_image(rows, kind):
    assert kind_of(np.array(rows)) == kind
    assert kind_of(np.array([[1, -1, -1]]), np.array(rows)) == kind


def test_shifts_repeat_the_edge():
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 5, 7), dtype=np.uint8)
    by = [(y, x) for y in (-2, 0, 3) for x in (-3, 0, 1)]
    moved = shifted(torch.from_numpy(images), torch.tensor(by)).numpy()
    for image, result, (down, right) in zip(images, moved, by, strict=True):
        padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="edge")
        np.testing.assert_array_equal(
            result, padded[:, 3 - down : 8 - down, 3 - right : 10 - right]
        )


def test_the_learning_rate_rises_and_falls():
    spec = described(steps=100, learning_rate=2.0)
    rates = [learning_rate(spec, step) for step in range(100)]
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 10, rtol=1e-12)
    np.testing.assert_allclose(rates[20:], 1 + np.cos(np.pi * np.arange(80) / 80), rtol=1e-12)
    assert learning_rate(described(steps=1, learning_rate=2.0), 0) == 2


@pytest.mark.parametrize(("size", "shape"), [((8, 8), (4, 4)), ((40, 28), (20, 14))])
def test_the_small_stem_halves_the_image(size, shape):
    network = untrained(size=size, channels=1).network
    with torch.no_grad():
        stem = network.maxpool(network.relu(network.bn1(network.conv1(torch.zeros(1, 1, *size)))))
    assert stem.shape == (1, 64, *shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_published_stem_quarters_it(channels):
    network = untrained(size=(64, 48), channels=channels, stem="imagenet").network
    with torch.no_grad():
        x = torch.zeros(1, channels, 64, 48)
        assert network.maxpool(network.conv1(x)).shape == (1, 64, 16, 12)
        assert network(x).shape == (1, 3)


@pytest.mark.parametrize(("size", "stem"), [((40, 50), "small"), ((41, 50), "imagenet")])
def test_the_stem_follows_the_size(small, size, stem):
    data = of(np.zeros((4, 3, *size), dtype=np.uint8), squares(4).labels)
    assert train_classifier(data, epochs=1, batch_size=2).spec.stem == stem


def test_maps_of_one_pixel_are_not_computed_in_bf16():
    assert not trains_in_bf16(torch.device("cpu"), (8, 32))


# ---- what it looks at ---------------------------------------------------------------------------


def test_images_in_any_batches_and_grey_ones(small):
    classifier = untrained()
    images = squares(7).images
    whole = classifier.predictions(images).probability
    np.testing.assert_allclose(
        classifier.predictions(images, batch_size=3).probability, whole, rtol=1e-5
    )
    grey = images[:, :1]
    repeated = classifier.predictions(np.repeat(grey, 3, axis=1)).probability
    np.testing.assert_array_equal(classifier.predictions(grey).probability, repeated)
    assert classifier.predictions(images[:0]).probability.shape == (0, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 16, 20), np.uint8), r"16×20 \(H×W\), .* trained at 16×16"),
        (np.zeros((2, 4, 16, 16), np.uint8), "have 4 channels, .* trained on 3"),
        (np.zeros((2, 3, 16, 16), np.float32), "not float32"),
        (np.zeros((3, 16, 16), np.uint8), r"not uint8 \(3, 16, 16\)"),
    ],
)
def test_other_images_are_refused(small, images, message):
    with pytest.raises(ValueError, match=message):
        untrained().predictions(images)


# ---- its folder ---------------------------------------------------------------------------------


def test_what_is_saved_judges_the_same_to_the_bit(digits_judge):
    classifier, out = digits_judge
    images = open_images("digits").images[:100]
    assert {path.name for path in out.iterdir()} == {"classifier.safetensors", "classifier.json"}
    assert list(out.parent.iterdir()) == [out]
    for path in (out, out / "classifier.safetensors"):
        again = load_classifier(path, device="cpu")
        assert again.spec == classifier.spec
        for one, other in zip(
            again.predictions(images), classifier.predictions(images), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert json.loads((out / "classifier.json").read_text()) == classifier.spec.model_dump(
        mode="json"
    )


def test_nothing_is_overwritten(small, tmp_path):
    (tmp_path / "out").mkdir()
    save_classifier(untrained(), tmp_path / "out")  # an empty folder is no loss
    before = (tmp_path / "out" / "classifier.json").read_bytes()
    with pytest.raises(ValueError, match=r"out is not empty. Give --out a new folder"):
        save_classifier(untrained(), tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty"):
        train_classifier_to_folder(
            tmp_path / "nothing", tmp_path / "out"
        )  # before anything is read
    assert (tmp_path / "out" / "classifier.json").read_bytes() == before


def test_a_death_while_writing_leaves_no_folder(small, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judge_module.checkpoints, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            save_classifier(untrained(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save_classifier(untrained(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_diffusion_model_is_no_judge(finished_run):
    checkpoint = finished_run / "checkpoints" / "000006"
    for path in (finished_run, checkpoint, checkpoint / "ema.safetensors"):
        with pytest.raises(
            CheckpointError, match="holds a diffusion model, not a classifier; expected"
        ):
            load_classifier(path)


def test_what_else_is_no_judge(small, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"there is nothing at .*nowhere; expected the folder"
    ):
        load_classifier(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"is no classifier: it has no classifier\.safetensors; expect"
    ):
        load_classifier(tmp_path)
    write_tensors(tmp_path / "other.safetensors", TensorFile({"a": torch.zeros(2)}, {}))
    with pytest.raises(CheckpointError, match=r"other\.safetensors is not a classifier; expected"):
        load_classifier(tmp_path / "other.safetensors")


def rewritten(folder, *, tensors=(), **changes):
    file = folder / "classifier.safetensors"
    old = read_tensors(file)
    spec = {**json.loads(old.metadata[METADATA_KEY]), **changes}
    write_tensors(
        file, TensorFile({**old.tensors, **dict(tensors)}, {METADATA_KEY: json.dumps(spec)})
    )


def test_damage_and_other_versions(small, tmp_path):
    folder = save_classifier(untrained(), tmp_path / "classifier")
    rewritten(folder, format_version=99)
    with pytest.raises(CheckpointError, match=r"format version 99, .* Install a newer fromnoise"):
        load_classifier(folder)
    rewritten(folder, format_version=1, kind="colours")
    with pytest.raises(CheckpointError, match=r"metadata cannot be read: .*kind"):
        load_classifier(folder)
    rewritten(folder, kind="labels", label_names=["red"])
    with pytest.raises(
        CheckpointError, match=r"does not hold what it says it holds: .*size mismatch"
    ):
        load_classifier(folder)
    bad = torch.full((3,), float("inf"))
    rewritten(folder, label_names=NAMES, tensors={"5.bias": bad})
    with pytest.raises(CheckpointError, match=r"is damaged: 5\.bias is not finite"):
        load_classifier(folder)
    file = folder / "classifier.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"not a valid \.safetensors file"):
        load_classifier(folder)


# ---- what it is trained on ----------------------------------------------------------------------


def write_npz(file, data):
    arrays = {"images": data.images, "labels": data.labels, "label_names": np.array(NAMES)}
    np.savez(file, **arrays)
    return file


def write_idx(folder, stem, count):
    rng = np.random.default_rng(count)
    classes = np.arange(count, dtype=np.uint8) % 2
    images = rng.integers(0, 99, (count, 12, 12)).astype(np.uint8) + 150 * classes[:, None, None]
    for name, array in (("images-idx3", images.astype(np.uint8)), ("labels-idx1", classes)):
        head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{stem}-{name}-ubyte").write_bytes(head + array.tobytes())


def test_held_out_images_of_their_own(small, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train, test = (
        write_npz(tmp_path / f"{seed}.npz", squares(60 + 1001 * seed, seed=seed)) for seed in (0, 1)
    )
    classifier = train_classifier_to_folder(
        train, tmp_path / "a", epochs=10, batch_size=16, held_out=test
    )
    assert (classifier.spec.num_images, classifier.spec.num_held_out) == (60, 1061)
    wanted = squares(1061, seed=1)
    present = classifier.predictions(wanted.images).present
    assert classifier.spec.held_out["f1"] == pytest.approx(f1_of(present, wanted.labels))
    assert "on the 1061 held-out images: f1 " in caplog.text
    assert "epoch 1.07 of 10: loss " in caplog.text  # 4 steps of 16 of 60 images
    assert load_classifier(tmp_path / "a").spec == classifier.spec


def test_the_test_part_of_idx_files_is_held_out(small, tmp_path):
    for stem, count in (("train", 40), ("t10k", 12)):
        write_idx(tmp_path, stem, count)
    classifier = train_classifier_to_folder(tmp_path, tmp_path / "both", epochs=2, batch_size=8)
    assert (classifier.spec.kind, classifier.spec.source) == ("classes", "idx")
    assert (classifier.spec.num_images, classifier.spec.num_held_out) == (40, 12)
    named = train_classifier_to_folder(
        tmp_path, tmp_path / "n", epochs=1, batch_size=8, source="mnist"
    )
    assert (named.spec.source, named.spec.num_held_out) == ("mnist", 12)
    one_file = tmp_path / "train-images-idx3-ubyte"
    alone = train_classifier_to_folder(one_file, tmp_path / "one", epochs=1, batch_size=8)
    assert (alone.spec.num_images, alone.spec.num_held_out) == (36, 4)


def test_images_come_to_the_size_and_channels_asked_for(small, tmp_path):
    file = write_npz(tmp_path / "a.npz", squares(20))
    how = {"size": (12, 10), "channels": 1, "fit": "squash", "background": (0, 0, 0)}
    spec = train_classifier_to_folder(file, tmp_path / "out", epochs=1, held_out=file, **how).spec
    assert (spec.size, spec.channels) == ((12, 10), 1)
    assert (spec.fit, spec.background) == ("squash", (0, 0, 0))


def test_a_loss_that_is_not_finite_is_said_in_one_line(small, tmp_path):
    file = write_npz(tmp_path / "a.npz", squares(40))
    with pytest.raises(NotFinite, match=r"of 45: the loss .* not finite.* lower than 1e\+38") as no:
        train_classifier_to_folder(
            file, tmp_path / "out", epochs=20, batch_size=16, learning_rate=1e38
        )
    assert "\n" not in str(no.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_no_judge(small, monkeypatch):
    monkeypatch.setattr(judge_training, "learning_rate", lambda spec, step: math.nan)
    with pytest.raises(
        NotFinite, match=r"0\.weight of the classifier is not finite after the last step"
    ):
        train_classifier(squares(20), epochs=0.1, batch_size=2)


@pytest.mark.parametrize(
    ("data", "held_out", "message"),
    [
        (of(squares(9).images, None, ()), None, "have no labels, .* one sub-folder for each class"),
        (squares(9, labels=np.zeros((9, 3), np.int8)), None, "have no labels"),
        (
            squares(9, labels=np.ones((9, 3), np.int8)),
            None,
            "nothing for a classifier to tell apart",
        ),
        (
            of(squares(9).images, np.ones((9, 1), np.int8), ("only",)),
            None,
            "nothing for a classifier to tell apart: .*; labels: only",
        ),
        (squares(2), None, "from 3 labelled images at the least, and there are 2"),
        (squares(9), of(squares(9).images, None, ()), "held-out images have the labels none, but"),
        (squares(9), squares(9, size=20), r"held-out .* \(3, 20, 20\) \(C, H, W\), .* \(3, 16, 16"),
        (squares(9), squares(9, labels=np.zeros((9, 3), np.int8)), "have no labels"),
    ],
)
def test_data_that_a_judge_cannot_learn_from(data, held_out, message):
    with pytest.raises(DataError, match=message):
        train_classifier(data, held_out=held_out)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 1}, "batch size must be at least 2"),
        ({"epochs": 0}, "epochs must be more than 0"),
        ({"learning_rate": -1}, "learning rate must be more than 0"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(squares(9), **wrong)
