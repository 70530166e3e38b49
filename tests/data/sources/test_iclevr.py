import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import DataError, detect_source, open_images

OBJECTS = {"red cube": 1, "gray cube": 0, "red sphere": 2}  # not in the order of their ids
NAMES = ("gray cube", "red cube", "red sphere")
TRAIN = {"b_1.png": ["red cube"], "a_0.png": ["red sphere", "gray cube"], "c.png": ["red sphere"]}


@pytest.fixture
def root(tmp_path) -> Path:
    """Three images of 10, 20 and 30, in the order of train.json."""
    folder = tmp_path / "set" / "iclevr"
    folder.mkdir(parents=True)
    for i, name in enumerate(TRAIN, start=1):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(folder / name)
    put(folder.parent / "objects.json", OBJECTS)
    put(folder.parent / "train.json", TRAIN)
    return folder.parent


def put(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_labels_are_signs_in_the_order_of_the_ids(root):
    data = open_images("iclevr", root)
    assert data.label_names == NAMES
    assert data.labels.dtype == np.int8
    assert data.labels.tolist() == [[-1, 1, -1], [1, -1, 1], [-1, -1, 1]]
    assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert (data.images.shape, data.skipped, data.source) == ((3, 3, 4, 6), (), "iclevr")


def test_names_are_compared_in_one_form_of_unicode(root):
    composed, decomposed = "\u00e9", "e\u0301"
    put(root / "objects.json", OBJECTS | {composed: 3})
    put(root / "train.json", TRAIN | {f"{composed}.png": [decomposed]})
    (root / "iclevr" / "c.png").rename(root / "iclevr" / f"{decomposed}.png")
    data = open_images("iclevr", root)
    assert data.label_names == (*NAMES, composed)
    assert data.labels[-1].tolist() == [-1, -1, -1, 1]
    assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert data.skipped == ("c.png: named in train.json, but not in iclevr/",)
    put(root / "objects.json", {composed: 0, decomposed: 1})
    with pytest.raises(DataError, match=r"objects\.json has the name '\u00e9' twice"):
        open_images("iclevr", root)


def test_transparency_and_sizes_are_handled(root):
    Image.new("RGBA", (6, 4), (255, 0, 255, 0)).save(root / "iclevr" / "c.png")
    data = open_images("iclevr", root, size=(2, 2), background=(0, 128, 0))
    assert data.images.shape == (3, 3, 2, 2)
    assert data.images[2, :, 0, 0].tolist() == [0, 128, 0]


@pytest.mark.parametrize("place", ["iclevr", "images", "", "some where"])
def test_the_images_are_found(root, place):
    if place:
        (root / "iclevr").rename(root / place)
    else:
        for path in (root / "iclevr").iterdir():
            path.rename(root / path.name)
    (root / "results").mkdir()  # of something else
    Image.new("RGB", (4, 4)).save(root / "results" / "c.png")
    assert open_images("iclevr", root).images[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_no_images_says_where_it_looked(root):
    (root / "iclevr").rename(root / "out")
    for path in (root / "out").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match=r"none of the 3 images that train.json names") as error:
        open_images("iclevr", root)
    assert f"is in {root}, {root / 'out'}. Move" in str(error.value)


def test_missing_and_broken_files_are_skipped_with_their_labels(root):
    (root / "iclevr" / "b_1.png").unlink()
    (root / "iclevr" / "c.png").write_bytes(b"")
    data = open_images("iclevr", root)
    assert data.labels.tolist() == [[1, -1, 1]]
    assert data.skipped == (
        "b_1.png: named in train.json, but not in iclevr/",
        "c.png: the file is empty",
    )
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read: b_1.png: named in"):
        open_images("iclevr", root, strict=True)


def test_names_lead_nowhere_else(root):
    Image.new("RGB", (6, 4)).save(root.parent / "outside.png")
    put(root / "train.json", TRAIN | {"../../outside.png": ["red cube"]})
    assert open_images("iclevr", root).skipped == (
        "../../outside.png: named in train.json, but not in iclevr/",
    )


def test_every_change_is_detected(root):
    seen = [open_images("iclevr", root).fingerprint]
    assert open_images("iclevr", root).fingerprint == seen[0]
    put(root / "train.json", TRAIN | {"c.png": ["red cube"]})
    seen.append(open_images("iclevr", root).fingerprint)
    put(root / "objects.json", {"grey cube": 0, "red cube": 1, "red sphere": 2, "x": 3})
    put(root / "train.json", {"c.png": ["red cube"]})
    seen.append(open_images("iclevr", root).fingerprint)
    path = root / "iclevr" / "c.png"
    Image.fromarray(np.full((4, 6, 3), 99, np.uint8)).save(path)
    os.utime(path, ns=(0, 1))
    seen.append(open_images("iclevr", root).fingerprint)
    path.unlink()
    with pytest.raises(DataError, match=r"none of the 1 images"):
        open_images("iclevr", root)
    assert len(set(seen)) == 4


def test_the_test_split_has_no_images(root):
    with pytest.raises(
        DataError,
        match=r"data.split is 'test', but test.json .* have only conditions and no images",
    ):
        open_images("iclevr", root, split="test")


def test_it_is_detected(root):
    assert detect_source(root) == "iclevr"
    assert detect_source(root / "iclevr") == "folder"
    (root / "train.json").unlink()
    assert detect_source(root) == "folder"
    with pytest.raises(DataError, match=r"lacks objects.json or train.json"):
        open_images("iclevr", root)
    with pytest.raises(DataError, match=r"objects.json is a file\. Source iclevr needs a folder"):
        open_images("iclevr", root / "objects.json")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("objects.json", "{", r"objects.json is not valid JSON: .*line 1 column 2"),
        ("objects.json", ["red cube"], r'objects.json is invalid\. Write \{"name": id, …\}'),
        ("objects.json", {}, r'is invalid\. Write \{"name": id, …\}'),
        ("objects.json", {"a": True, "b": False}, "with whole numbers"),
        ("objects.json", {"a": 0, "b": 2}, r"are wrong: 1 is missing\. Use each of 0\.\.1 once"),
        ("objects.json", {"a": 1, "b": 2}, r"are wrong: 0 is missing\. Use each of 0\.\.1 once"),
        ("objects.json", {"a": 0, "b": 0}, "0 appears 2 times; 1 is missing"),
        ("objects.json", '{"a": 0, "b": 1, "a": 2}', "objects.json has the key 'a' twice"),
        ("train.json", "{'a'}", "train.json is not valid JSON"),
        (
            "train.json",
            [["red cube"]],
            r'train.json is not a table of labels\. Write \{"file": \["na',
        ),
        ("train.json", {}, r"train.json is not a table of labels\. .*, …\}\.$"),
        ("train.json", {"c.png": []}, "train.json: 'c.png' has no names. Add at least one"),
        ("train.json", {"c.png": [1]}, r"'c.png': \[1\] is not a list of names\. Write .*\]\.$"),
        ("train.json", {"c.png": ["red cub"]}, r"no label 'red cub'\. Did you mean red cube or"),
        (
            "train.json",
            '{"c.png": ["red cube"], "c.png": ["red cube"]}',
            "has the key 'c.png' twice",
        ),
    ],
)
def test_what_is_wrong_is_one_line(root, file, content, message):
    put(root / file, content)
    with pytest.raises(DataError, match=message) as error:
        open_images("iclevr", root)
    assert str(root / file) in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(root):
    (root / "train.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match=r"train.json is not UTF-8"):
        open_images("iclevr", root)


def test_a_folder_that_is_not_of_this_layout_is_not_taken_for_another(root):
    with pytest.raises(DataError, match=r"has no objects.json and train.json.* such as .*set\.$"):
        detect_source(root / "iclevr", named="iclevr")
    assert detect_source(root, named="iclevr") == "iclevr"
