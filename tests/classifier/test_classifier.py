import json
import logging
import lzma
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fromnoise.checkpoints import (
    CheckpointError,
    NotFinite,
    TensorFile,
    read_tensors,
    write_tensors,
)
from fromnoise.classifier import classifier as classifier_module
from fromnoise.classifier import training
from fromnoise.classifier.classifier import (
    METADATA_KEY,
    Classifier,
    ClassifierSpec,
    load_classifier,
)
from fromnoise.classifier.settings import ClassifierSettings, parse_settings
from fromnoise.classifier.training import (
    classifier_kind,
    classifier_loss,
    recalibrate_batch_norm,
    shift_images,
    split_held_out,
    train_classifier,
    train_classifier_to_folder,
    training_precision,
)
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError, ImageSet, open_images
from fromnoise.training.state import learning_rate

STORED = Path(__file__).parent.parent / "stored"
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
    return image_set(images, labels)


def image_set(images, labels, names=NAMES):
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
    monkeypatch.setattr(classifier_module, "build_network", small_network)
    monkeypatch.setattr(training, "build_network", small_network)


@pytest.fixture(scope="module")
def digits_classifier(tmp_path_factory):
    """A ResNet-18 after 25 steps, and its folder. Do not write to it."""
    out = tmp_path_factory.mktemp("classifier") / "digits"
    settings = ClassifierSettings(epochs=1)
    return train_classifier_to_folder("digits", out, settings=settings, device="cpu"), out


def spec_of(**changes):
    known = {"kind": "labels", "label_names": NAMES, "channels": 3, "size": (16, 16)}
    return ClassifierSpec(**{**known, "stem": "small", **changes})


def untrained(**changes):
    spec = spec_of(**changes)
    torch.manual_seed(1)
    return Classifier(classifier_module.build_network(spec), spec)


def f1_of(present, labels):
    targets = labels > 0
    return 2 * (present & targets).sum() / (present.sum() + targets.sum())


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_classifier_of_digits(digits_classifier):
    classifier, _ = digits_classifier
    digits = open_images("digits")
    spec = classifier.spec
    assert (spec.kind, spec.stem, spec.size) == ("classes", "small", (8, 8))
    assert classifier.spec.label_names == digits.label_names
    assert classifier.spec.fingerprint == digits.fingerprint
    assert (classifier.spec.num_images, classifier.spec.num_held_out) == (1617, 180)
    train, test = split_held_out(digits, None, seed=0)
    assert set(train.indices) | set(test.indices) == set(range(1797))
    probability, present = classifier.predictions(digits.images[test.indices])
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    right = probability.argmax(axis=1) == digits.labels[test.indices].argmax(axis=1)
    assert right.mean() >= 0.9
    assert classifier.spec.held_out == {"accuracy": right.mean()}
    assert (present.sum(axis=1) == 1).all()
    sevens = digits.labels[test.indices][:, 7] > 0
    assert classifier.spec.held_out_f1["7"] == pytest.approx(f1_of(present[:, 7], sevens))


@pytest.mark.slow
def test_a_classifier_of_many_labels():
    settings = ClassifierSettings(epochs=2, batch_size=32)
    classifier = train_classifier(squares(320), settings=settings, device="cpu")
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


def test_unknown_labels_are_neither_learned_nor_scored(small):
    """The squares show the true labels; a third of the labels is then removed."""
    true = squares(300)
    known = true.labels * (np.random.default_rng(3).random(true.labels.shape) < 2 / 3)
    known[:20] = 0
    data = image_set(true.images, known.astype(np.int8))
    classifier = train_classifier(data, settings=ClassifierSettings(epochs=15, batch_size=32))
    labelled = int(known.any(axis=1).sum())
    assert classifier.spec.num_images + classifier.spec.num_held_out == labelled <= 280
    fresh = squares(200, seed=5)
    assert f1_of(classifier.predictions(fresh.images).present, fresh.labels) >= 0.95
    assert classifier.spec.held_out["f1"] >= 0.9


def test_the_same_seed_gives_the_same_classifier(small):
    data = squares(100)
    one, again, other = (
        train_classifier(data, settings=ClassifierSettings(epochs=2, batch_size=32, seed=seed))
        for seed in (0, 0, 1)
    )
    assert one.spec == again.spec
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert not torch.equal(one.network[0].weight, other.network[0].weight)
    held_out = [set(split_held_out(data, None, seed=seed)[1].indices) for seed in (0, 1)]
    assert held_out[0] != held_out[1]


def test_the_global_random_state_does_not_matter(small):
    """Order and shifts are functions of the seed, like the first weights."""
    data, settings = squares(100), ClassifierSettings(epochs=1, batch_size=32)
    torch.manual_seed(7)
    one = train_classifier(data, settings=settings)
    torch.rand(3)
    again = train_classifier(data, settings=settings)
    assert torch.equal(one.network[5].weight, again.network[5].weight)


# ---- parts of training --------------------------------------------------------------------------


def test_batch_norm_is_recalibrated_with_the_final_weights():
    data = split_held_out(squares(300), None, seed=0)[0]
    network = small_network(spec_of()).train()
    with torch.no_grad():
        before = network[0](torch.from_numpy(data.images[data.indices]) / 127.5 - 1)
        network(torch.randn(4, 3, 16, 16) + 9)  # to be forgotten
    recalibrate_batch_norm(network, data)
    values = before.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(network[1].running_mean.double(), values.mean(dim=1))
    torch.testing.assert_close(network[1].running_var.double(), values.var(dim=1))


def test_the_loss_is_the_mean_over_known_labels():
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
    other_logits = logits.detach() + 5 * torch.randn(6, 4) * (labels == 0)
    assert classifier_loss(other_logits, labels, "labels") == loss


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
def test_classes_have_exactly_one_label_per_image(rows, kind):
    assert classifier_kind(np.array(rows)) == kind
    assert classifier_kind(np.array([[1, -1, -1]]), np.array(rows)) == kind


def test_shifts_repeat_the_edge():
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 5, 7), dtype=np.uint8)
    by = [(y, x) for y in (-2, 0, 3) for x in (-3, 0, 1)]
    moved = shift_images(torch.from_numpy(images), torch.tensor(by)).numpy()
    for image, result, (down, right) in zip(images, moved, by, strict=True):
        padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="edge")
        np.testing.assert_array_equal(
            result, padded[:, 3 - down : 8 - down, 3 - right : 10 - right]
        )


def test_the_learning_rate_rises_and_falls():
    settings = ClassifierSettings(epochs=1, batch_size=2, learning_rate=2.0)
    optimisation = settings.optimisation(num_images=200)
    assert optimisation.steps == 100
    rates = [learning_rate(optimisation, step) for step in range(100)]
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 10, rtol=1e-12)
    np.testing.assert_allclose(rates[20:], 1 + np.cos(np.pi * np.arange(80) / 80), rtol=1e-12)
    assert learning_rate(settings.optimisation(num_images=2), 0) == 2
    epochs = [ClassifierSettings().epochs_for(count) for count in (100, 20_000, 10**6)]
    assert epochs == [40, 10, 4]


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
    data = image_set(np.zeros((4, 3, *size), dtype=np.uint8), squares(4).labels)
    settings = ClassifierSettings(epochs=1, batch_size=2)
    assert train_classifier(data, settings=settings).spec.stem == stem


def test_maps_of_one_pixel_are_not_computed_in_bf16():
    assert training_precision(torch.device("cpu"), (8, 32)) == "fp32"


# ---- predictions --------------------------------------------------------------------------------


def test_batch_size_does_not_matter_and_grey_images_are_repeated(small, monkeypatch):
    classifier = untrained()
    images = squares(7).images
    whole = classifier.predictions(images).probability
    monkeypatch.setattr(classifier_module, "BATCH_SIZE", 3)
    np.testing.assert_allclose(classifier.predictions(images).probability, whole, rtol=1e-5)
    grey = images[:, :1]
    repeated = classifier.predictions(np.repeat(grey, 3, axis=1)).probability
    np.testing.assert_array_equal(classifier.predictions(grey).probability, repeated)
    assert classifier.predictions(images[:0]).probability.shape == (0, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 16, 20), np.uint8), r"16×20 \(H×W\) with 3 channels, .* trained on 16×16"),
        (np.zeros((2, 4, 16, 16), np.uint8), "with 4 channels, .* with 3 channels"),
        (np.zeros((2, 3, 16, 16), np.float32), r"are float32 .* Give uint8 \(N, C, H, W\)"),
        (np.zeros((3, 16, 16), np.uint8), r"are uint8 \(3, 16, 16\)\. Give"),
    ],
)
def test_other_images_are_refused(small, images, message):
    with pytest.raises(ValueError, match=message):
        untrained().predictions(images)


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_saved_classifier_predicts_the_same_to_the_bit(digits_classifier):
    classifier, out = digits_classifier
    images = open_images("digits").images[:100]
    assert {path.name for path in out.iterdir()} == {"classifier.safetensors", "classifier.json"}
    assert list(out.parent.iterdir()) == [out]
    for path in (out, out / "classifier.safetensors"):
        again = load_classifier(path, device="cpu")
        assert again.spec == classifier.spec
        both = again.predictions(images), classifier.predictions(images)
        for one, other in zip(*both, strict=True):
            np.testing.assert_array_equal(one, other)
    spec = json.loads((out / "classifier.json").read_text())
    assert spec == classifier.spec.model_dump(mode="json")
    assert METADATA_KEY in read_tensors(out / "classifier.safetensors").metadata


def test_a_classifier_with_the_old_file_names_is_read(tmp_path):
    """Earlier versions wrote judge.safetensors, judge.json and the metadata key fromnoise_judge."""
    packed = (STORED / "judge" / "judge.safetensors.xz").read_bytes()
    file = tmp_path / "judge.safetensors"
    file.write_bytes(lzma.decompress(packed))
    images = np.asarray(open_images("digits").images[:64])
    for path in (tmp_path, file):
        classifier = load_classifier(path, device="cpu")
        spec = json.loads((STORED / "judge" / "judge.json").read_text())
        assert classifier.spec.model_dump(mode="json") == spec
        predictions = classifier.predictions(images)
        with np.load(STORED / "verdicts.npz") as expected:
            np.testing.assert_allclose(
                predictions.probability, expected["probability"], rtol=0, atol=1e-3
            )
            np.testing.assert_array_equal(predictions.present, expected["present"])


def test_nothing_is_overwritten(small, tmp_path):
    (tmp_path / "out").mkdir()
    untrained().save(tmp_path / "out")  # an empty folder may be replaced
    before = (tmp_path / "out" / "classifier.json").read_bytes()
    with pytest.raises(ValueError, match=r"out is not empty. Give --out a new folder"):
        untrained().save(tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty"):
        train_classifier_to_folder(tmp_path / "missing", tmp_path / "out")  # before reading
    assert (tmp_path / "out" / "classifier.json").read_bytes() == before


def test_an_interrupted_save_leaves_no_folder(small, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classifier_module.checkpoints, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            untrained().save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    untrained().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_diffusion_model_is_not_a_classifier(finished_run):
    checkpoint = finished_run / "checkpoints" / "000006"
    for path in (finished_run, checkpoint, checkpoint / "ema.safetensors"):
        message = r"holds a diffusion model, not a classifier\. Give the folder that"
        with pytest.raises(CheckpointError, match=message):
            load_classifier(path)


def test_other_files_are_not_a_classifier(small, tmp_path):
    other = tmp_path / "other.safetensors"
    write_tensors(other, TensorFile({"a": torch.zeros(2)}, {}))
    for path, message in (
        (tmp_path / "missing", r"there is nothing at .*missing\. Give the folder"),
        (tmp_path, r"is not a classifier: classifier\.safetensors is missing\. Give the folder"),
        (other, r"other\.safetensors is not a classifier\. Give the folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_classifier(path)


def rewrite(folder, *, tensors=(), **changes):
    file = folder / "classifier.safetensors"
    old = read_tensors(file)
    spec = {**json.loads(old.metadata[METADATA_KEY]), **changes}
    write_tensors(
        file, TensorFile({**old.tensors, **dict(tensors)}, {METADATA_KEY: json.dumps(spec)})
    )


def test_damage_and_other_versions(small, tmp_path):
    folder = untrained().save(tmp_path / "classifier")
    rewrite(folder, format_version=99)
    with pytest.raises(CheckpointError, match=r"format version 99, .* Install a newer fromnoise"):
        load_classifier(folder)
    rewrite(folder, format_version=1, kind="colours")
    with pytest.raises(CheckpointError, match=r"metadata cannot be read: .*kind"):
        load_classifier(folder)
    rewrite(folder, kind="labels", label_names=["red"])
    with pytest.raises(CheckpointError, match=r"weights do not fit the network: .*size mismatch"):
        load_classifier(folder)
    bad = torch.full((3,), float("inf"))
    rewrite(folder, label_names=NAMES, tensors={"5.bias": bad})
    with pytest.raises(CheckpointError, match=r"is damaged: 5\.bias is not finite"):
        load_classifier(folder)
    file = folder / "classifier.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"not a valid \.safetensors file"):
        load_classifier(folder)


# ---- data and settings --------------------------------------------------------------------------


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


def test_a_held_out_set(small, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train, test = (
        write_npz(tmp_path / f"{seed}.npz", squares(60 + 1001 * seed, seed=seed)) for seed in (0, 1)
    )
    settings = ClassifierSettings(epochs=10, batch_size=16)
    classifier = train_classifier_to_folder(train, tmp_path / "a", settings=settings, held_out=test)
    assert (classifier.spec.num_images, classifier.spec.num_held_out) == (60, 1061)
    data = squares(1061, seed=1)
    present = classifier.predictions(data.images).present
    assert classifier.spec.held_out["f1"] == pytest.approx(f1_of(present, data.labels))
    assert "on the 1061 held-out images: f1 " in caplog.text
    assert "epoch 1.07 of 10: loss " in caplog.text  # 4 steps of 16 of 60 images
    assert load_classifier(tmp_path / "a").spec == classifier.spec


def test_the_test_part_of_idx_files_is_held_out(small, tmp_path):
    for stem, count in (("train", 40), ("t10k", 12)):
        write_idx(tmp_path, stem, count)
    settings = ClassifierSettings(epochs=2, batch_size=8)
    both = train_classifier_to_folder(tmp_path, tmp_path / "both", settings=settings)
    assert (both.spec.kind, both.spec.source) == ("classes", "idx")
    assert (both.spec.num_images, both.spec.num_held_out) == (40, 12)
    named = ClassifierSettings(epochs=1, batch_size=8, source="mnist")
    mnist = train_classifier_to_folder(tmp_path, tmp_path / "mnist", settings=named)
    assert (mnist.spec.source, mnist.spec.num_held_out) == ("mnist", 12)
    file = tmp_path / "train-images-idx3-ubyte"
    one = train_classifier_to_folder(file, tmp_path / "one", settings=settings)
    assert (one.spec.num_images, one.spec.num_held_out) == (36, 4)


def test_the_test_folder_of_splits_is_held_out(small, tmp_path):
    data = squares(20)
    for i, image in enumerate(data.images):
        folder = tmp_path / "data" / ("test" if i >= 14 else "train") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    settings = ClassifierSettings(epochs=1, batch_size=8)
    spec = train_classifier_to_folder(tmp_path / "data", tmp_path / "out", settings=settings).spec
    assert (spec.num_images, spec.num_held_out, spec.label_names) == (14, 6, ("a", "b"))


def test_images_are_resized_as_the_settings_say(small, tmp_path):
    file = write_npz(tmp_path / "a.npz", squares(20))
    settings = ClassifierSettings(
        epochs=1, size=(12, 10), channels=1, fit="squash", background=(0, 0, 0)
    )
    out = tmp_path / "out"
    spec = train_classifier_to_folder(file, out, settings=settings, held_out=file).spec
    assert (spec.size, spec.channels) == ((12, 10), 1)
    assert (spec.fit, spec.background) == ("squash", (0, 0, 0))


def test_a_loss_that_is_not_finite_is_an_error_of_one_line(small, tmp_path):
    file = write_npz(tmp_path / "a.npz", squares(40))
    settings = ClassifierSettings(epochs=20, batch_size=16, learning_rate=1e38)
    with pytest.raises(NotFinite, match=r"of 45: the loss .* not finite.* lower than 1e\+38") as no:
        train_classifier_to_folder(file, tmp_path / "out", settings=settings)
    assert "\n" not in str(no.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(small, monkeypatch):
    monkeypatch.setattr(training, "learning_rate", lambda settings, step: math.nan)
    with pytest.raises(
        NotFinite, match=r"0\.weight of the classifier is not finite after the last step"
    ):
        train_classifier(squares(20), settings=ClassifierSettings(epochs=0.1, batch_size=2))


@pytest.mark.parametrize(
    ("data", "held_out", "message"),
    [
        (
            image_set(squares(9).images, None, ()),
            None,
            "have no labels, .* one sub-folder for each class",
        ),
        (squares(9, labels=np.zeros((9, 3), np.int8)), None, "have no labels"),
        (
            squares(9, labels=np.ones((9, 3), np.int8)),
            None,
            "there is nothing for a classifier to learn",
        ),
        (
            image_set(squares(9).images, np.ones((9, 1), np.int8), ("only",)),
            None,
            r"there is nothing for a classifier to learn \(labels: only\)\. Give",
        ),
        (squares(2), None, r"labelled images is 2, and .* at least 3\. Add more\."),
        (
            squares(9),
            image_set(squares(9).images, None, ()),
            "held-out images have the labels none, but",
        ),
        (squares(9), squares(9, size=20), r"held-out .* \(3, 20, 20\) \(C, H, W\), .* \(3, 16, 16"),
        (squares(9), squares(9, labels=np.zeros((9, 3), np.int8)), "have no labels"),
    ],
)
def test_data_that_cannot_be_learned_is_refused(data, held_out, message):
    with pytest.raises(DataError, match=message):
        train_classifier(data, held_out=held_out)


def test_settings_are_read_as_in_a_recipe():
    settings = parse_settings({"size": 16, "background": 128, "epochs": 2, "learning_rate": "1e-2"})
    assert (settings.size, settings.background) == ((16, 16), (128, 128, 128))
    assert (settings.epochs, settings.learning_rate) == (2, 0.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1}, "batch_size = 1 is too small. Give at least 2"),
        ({"epochs": 0}, "epochs = 0 is too small. Give more than 0"),
        ({"learning_rate": -1}, "learning_rate = -1 is too small. Give more than 0"),
        ({"size": 4}, "size.0 = 4 is too small. Give at least 8"),
        ({"epoch": 4}, "unknown key epoch; did you mean epochs. Known keys: source, size, "),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(values)
