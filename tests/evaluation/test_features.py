import numpy as np
import pytest
import torch
from torch import nn

from fromnoise.classifier.classifier import Classifier, ClassifierSpec, build_network
from fromnoise.evaluation import features as extractors
from fromnoise.evaluation.features import (
    Against,
    ExtractorError,
    classifier_features,
    extract_features,
    open_extractor,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)


def judge_of(kind="classes", channels=3, size=(8, 8)):
    names = ("a", "b", "c")
    spec = ClassifierSpec(kind=kind, label_names=names, channels=channels, size=size, stem="small")
    torch.manual_seed(0)
    return Classifier(build_network(spec), spec)


def test_pixels_are_themselves_between_0_and_1():
    pixels = open_extractor(Against(extractor="pixels"), (1, 2, 2))
    images = np.array([0, 51, 102, 255], dtype=np.uint8).reshape(1, 1, 2, 2)
    features, logits = pixels.extract(images)
    np.testing.assert_allclose(features, [[0, 0.2, 0.4, 1]])
    assert (logits, pixels.width, pixels.weights) == (None, 4, "")


def test_large_images_are_averaged():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96), dtype=np.uint8)
    pixels = open_extractor(Against(extractor="pixels"), (3, 64, 96))
    expected = images.reshape(2, 3, 32, 2, 32, 3).mean(axis=(3, 5)) / 255
    np.testing.assert_allclose(pixels.extract(images).features, expected.reshape(2, -1), rtol=1e-5)
    assert (pixels.width, pixels.resize) == (3072, "averaged to 32×32")


def test_a_judge_gives_what_its_last_layer_is_given():
    classifier = judge_of()
    seen = []
    hook = classifier.network.fc.register_forward_hook(
        lambda _, given, out: seen.append((*given, out))
    )
    classifier.network(torch.from_numpy(IMAGES) / 127.5 - 1)
    hook.remove()
    (given, out), found = seen[0], classifier_features(classifier).extract(IMAGES)
    np.testing.assert_allclose(found.features, given, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.logits, out, rtol=1e-4, atol=1e-6)
    assert classifier_features(classifier).width == given.shape[1] == 512


def test_yes_or_no_labels_are_no_classes():
    assert classifier_features(judge_of("labels")).extract(IMAGES).logits is None


def test_other_weights_are_another_extractor():
    classifier, other = judge_of(), judge_of()
    assert classifier_features(classifier).weights == classifier_features(other).weights
    with torch.no_grad():
        other.network.fc.bias[0] += 1e-6
    assert classifier_features(classifier).weights != classifier_features(other).weights


def test_grey_is_repeated_and_batches_are_put_together(monkeypatch):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean(dim=(2, 3)) * self.scale,)

    monkeypatch.setattr(extractors, "BATCH_SIZE", 4)
    features, logits = extractors._in_batches(Mean())(IMAGES[:, :1])
    expected = IMAGES[:, 0].mean(axis=(1, 2))
    np.testing.assert_allclose(features, np.stack([expected] * 3, axis=1), rtol=1e-6)
    assert logits is None


def test_features_are_extracted_in_parts_and_are_counted(monkeypatch):
    monkeypatch.setattr(extractors, "PART", 4)
    done = []
    pixels = open_extractor(Against(extractor="pixels"), (3, 8, 8))
    found = extract_features(pixels, IMAGES, lambda *of: done.append(of)).features
    assert done == [(4, 9), (8, 9), (9, 9)]
    np.testing.assert_array_equal(found, pixels.extract(IMAGES).features)


def test_features_that_are_not_finite_are_refused():
    def extract(images):
        features = np.ones((len(images), 2), dtype=np.float32)
        features[3] = np.nan
        return extractors.Features(features, None)

    broken = extractors.Extractor("pixels", 2, "", "none", extract)
    with pytest.raises(ExtractorError, match=r"NaN or infinite for 1 of the images 0-8\. Check"):
        extract_features(broken, IMAGES)


def no_network(*_, **__):
    raise OSError("Name or service not known")


def test_without_weights_and_network_it_is_said_what_to_fetch_and_what_works(monkeypatch):
    library = pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(
        library.feature_extractor_inceptionv3, "load_state_dict_from_url", no_network
    )
    with pytest.raises(ExtractorError) as error:
        open_extractor(Against(extractor="inception"), (3, 8, 8))
    line = str(error.value)
    assert f"Download {library.feature_extractor_inceptionv3.URL_INCEPTION_V3}" in line
    assert "checkpoints/weights-inception-2015-12-05-6726825d.pth" in line
    assert "or give it as --features-weights." in line
    assert (
        "`--extractor classifier --classifier FOLDER` and `--extractor pixels` work without it"
        in line
    )
    monkeypatch.setattr(torch.hub, "load", no_network)
    with pytest.raises(ExtractorError, match="DINOv2 is missing and the download failed"):
        open_extractor(Against(extractor="dinov2"), (3, 8, 8))


class Code:
    """A file that would run something when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_are_no_weights_are_refused_and_nothing_in_them_runs(tmp_path, capsys):
    def opened(file):
        return open_extractor(Against(extractor="inception", features_weights=file), (3, 8, 8))

    with pytest.raises(ExtractorError, match=r"missing\.pth does not exist"):
        opened(tmp_path / "missing.pth")
    torch.save(Code(), tmp_path / "code.pth")
    with pytest.raises(ExtractorError, match=r"code\.pth is no file of tensors"):
        opened(tmp_path / "code.pth")
    assert capsys.readouterr().out == ""
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ExtractorError, match=r"other\.pth has no weights of torch-fidelity's Inc"):
        opened(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "shape", "options", "said"),
    [
        ("vgg", (3, 8, 8), [], "'vgg' is unknown. Known: classifier, dinov2, inception, pixels"),
        ("classifier", (3, 8, 8), [], "--extractor classifier needs --classifier FOLDER"),
        ("inception", (4, 8, 8), [], "images of 1 or 3 channels, these have 4"),
        (
            "classifier",
            (3, 9, 8),
            ["classifier"],
            "images are 9×8 .H×W. with 3 channels, but this classifier",
        ),
        ("pixels", (3, 8, 8), ["classifier"], "belongs to --extractor classifier, not to pixels"),
        ("inception", (3, 8, 8), ["classifier"], "--extractor classifier, not to inception"),
        ("dinov2", (3, 8, 8), ["features_weights"], "--extractor inception, not to dinov2"),
        (None, (3, 8, 8), ["classifier", "features_weights"], "inception, not to classifier"),
    ],
)
def test_what_does_not_fit_together_is_one_line(tmp_path, name, shape, options, said):
    folder = judge_of().save(tmp_path / "classifier")
    with pytest.raises(ValueError, match=said) as error:
        open_extractor(Against(extractor=name, **dict.fromkeys(options, folder)), shape)
    assert "\n" not in str(error.value)


def test_the_extractor_is_the_named_one_or_that_of_what_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "inception", lambda weights, *, device: ("inception", weights))
    folder = judge_of().save(tmp_path / "classifier")
    assert open_extractor(Against(), (3, 8, 8)) == ("inception", None)
    for name in (None, "classifier"):
        assert (
            open_extractor(Against(extractor=name, classifier=folder), (3, 8, 8)).name
            == "classifier"
        )
    for name in (None, "inception"):
        found = open_extractor(Against(extractor=name, features_weights=folder), (3, 8, 8))
        assert found == ("inception", folder)
