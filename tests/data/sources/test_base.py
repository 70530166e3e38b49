"""A source from outside the package is used by its name, with no other change."""

import numpy as np
import pytest

import fromnoise
from fromnoise.data import SOURCES, DataError, check_data, open_images
from fromnoise.data.sources.base import SourceListing, array_reader, require_path

NAMES = ("dark", "bright")


def squares(request):
    """Read a text file with one grey level per line, as 8×8 images with two labels."""
    path = require_path(request, "squares")
    content = path.read_text()

    def open_reader():
        levels = np.array([int(line) for line in content.split()], np.uint8)
        images = np.broadcast_to(levels[:, None, None, None], (len(levels), 8, 8, 1))
        bright = np.where(levels > 127, 1, -1).astype(np.int8)
        return array_reader(images, labels=(np.stack([-bright, bright], 1), NAMES))

    return SourceListing(content, open_reader)


@pytest.fixture
def levels(monkeypatch, tmp_path):
    """The file of the source `squares`, which is registered."""
    monkeypatch.setitem(SOURCES, "squares", squares)
    path = tmp_path / "levels.txt"
    path.write_text("10 200 90")
    return path


def test_a_new_source_is_opened_and_checked(levels):
    data = open_images("squares", levels)
    assert data.images[:, 0, 0, 0].tolist() == [10, 200, 90]
    assert (data.images.shape, data.source, data.label_names) == ((3, 1, 8, 8), "squares", NAMES)
    assert data.labels.tolist() == [[1, -1], [-1, 1], [1, -1]]
    report = check_data(levels, source="squares")
    assert (report.count, report.classes) == (3, {"dark": 2, "bright": 1})
    with pytest.raises(DataError, match=r"data.path is missing, but source squares needs a path"):
        open_images("squares")


def test_a_changed_stamp_is_decoded_again(levels):
    first = open_images("squares", levels)
    assert open_images("squares", levels).fingerprint == first.fingerprint
    levels.write_text("10 200 91")
    assert open_images("squares", levels).images[:, 0, 0, 0].tolist() == [10, 200, 91]


def test_a_recipe_trains_on_a_new_source_and_its_labels(levels, tiny, tmp_path):
    tiny["data"] = {"source": "squares", "path": str(levels), "labels": True}
    run = fromnoise.train(tiny, out=tmp_path / "run")
    assert run.recipe().data.source == "squares"
    model = fromnoise.load(tmp_path / "run")
    assert model.spec.label_names == NAMES
    assert model.sample(seeds=[0], steps=2).shape == (1, 1, 8, 8)


def test_without_the_source_its_recipe_is_refused(tiny, tmp_path):
    tiny["data"] = {"source": "squares", "path": str(tmp_path)}
    with pytest.raises(ValueError, match=r"data.source = 'squares'"):
        fromnoise.train(tiny, out=tmp_path / "run")
