"""`data.white` belongs to a model: later images of 16 bits are read as those of its training."""

import numpy as np
import pytest
from PIL import Image

import fromnoise
from fromnoise.classifier.settings import ClassifierSettings
from fromnoise.classifier.training import train_classifier_to_folder
from fromnoise.data import DataError, open_images
from fromnoise.evaluation.images import open_real
from fromnoise.generation.edits import read_inputs
from fromnoise.generation.request import Request


@pytest.fixture
def folder(tmp_path):
    """8 images of 8×8, of 12 bits in 16, and the levels that they mean."""
    levels = np.random.default_rng(0).integers(0, 4096, (8, 8, 8), dtype=np.uint16)
    for i, image in enumerate(levels):
        path = tmp_path / "images" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "images"


def test_a_model_reads_later_images_with_the_white_of_its_training(tiny, folder, tmp_path):
    tiny["data"] = {"source": "folder", "path": str(folder), "white": 4095}
    run = fromnoise.train(tiny, out=tmp_path / "run")
    model = fromnoise.load(run.folder)
    assert model.spec.white == 4095
    expected = open_images("folder", folder, white=4095).images
    assert expected.max() > 240
    reference = open_real(str(folder), (1, 8, 8), model.spec)
    np.testing.assert_array_equal(reference.images.images, expected)
    request = Request(model, model.spec.sampling, tmp_path / "out")
    edited = read_inputs(request, folder / "0").images
    np.testing.assert_array_equal(edited, expected[:4])


def test_a_classifier_has_it_too(folder, tmp_path):
    settings = ClassifierSettings(epochs=1, batch_size=2, white=1000)
    with pytest.raises(DataError, match=r"none of the 8 images .* above data\.white = 1000"):
        train_classifier_to_folder(folder, tmp_path / "out", settings=settings)
