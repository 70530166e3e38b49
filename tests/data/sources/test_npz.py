import io
import shutil
import tempfile
import zipfile

import numpy as np
import pytest

from fromnoise.data import DataError, open_images
from fromnoise.data.sources import base
from fromnoise.data.sources.npz import read_labels

RGB = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 9), dtype=np.uint8)  # NCHW


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("key", ["images", "x", "X", "arr_0"])
def test_npz_in_either_layout(tmp_path, save, layout, key):
    images = RGB if layout == "NCHW" else RGB.transpose(0, 2, 3, 1)
    save(tmp_path / "x.npz", **{key: images})
    data = open_images("npz", tmp_path / "x.npz")
    np.testing.assert_array_equal(data.images, RGB)
    assert data.labels is None


def test_grey_and_fortran_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    np.save(tmp_path / "x.npy", np.asfortranarray(RGB[:, 0]))
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(RGB[:, 0]))
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(open_images("npz", tmp_path / name).images, RGB[:, :1])
    assert not list((tmp_path / "temporary").iterdir())


def test_any_number_of_channels_and_a_resize_of_each(tmp_path):
    images = np.zeros((2, 5, 8, 8), np.uint8)
    images[:] = np.arange(5)[:, None, None] * 10
    np.savez(tmp_path / "x.npz", images=images)
    data = open_images("npz", tmp_path / "x.npz", size=(4, 4), fit="squash")
    assert data.images.shape == (2, 5, 4, 4)
    assert data.images[1, :, 2, 2].tolist() == [0, 10, 20, 30, 40]
    with pytest.raises(DataError, match=r"data.channels is 3, but the images have 5\. Set it to 5"):
        open_images("npz", tmp_path / "x.npz", channels=3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([-1, 0, 1], np.float64), [0, 128, 255]),
        (np.array([-1, 0, 1], np.float16), [0, 128, 255]),
        (np.array([0, 385, 65535], np.uint16), [0, 1, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
    ],
)
def test_values_of_other_types(tmp_path, values, expected):
    np.save(tmp_path / "x.npy", np.broadcast_to(values[:, None, None], (3, 4, 4)))
    data = open_images("npz", tmp_path / "x.npy")
    assert data.images[:, 0, 1, 1].tolist() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, 255.0]), r"values 0\.\.255\. Save 0\.\.1 or -1\.\.1, or uint8 for 0\.\.255"),
        (np.array([0, np.nan]), "values nan..nan"),
        (np.array([0, 16]), r"type int64\. Save uint8, uint16, bool or float"),
        (np.array([None, 1]), "Python objects in dtype"),
    ],
)
def test_values_whose_white_is_a_guess_are_refused(tmp_path, values, message):
    np.save(tmp_path / "x.npy", np.broadcast_to(values[:, None, None], (2, 4, 4)))
    with pytest.raises(DataError, match=message):
        open_images("npz", tmp_path / "x.npy")


@pytest.mark.parametrize(
    "shape",
    [
        *((4, 4), (2, 3, 4, 3), (0, 4, 4), (1, 2, 3, 4, 5)),
        *((9, 8, 3), (9, 8, 4), (9, 8, 1)),  # one image
        *((8, 9, 3, 7), (8, 9, 3, 20), (8, 9, 1, 20), (8, 8, 3, 2), (8, 8, 1, 1)),  # HWCN
    ],
)
def test_shapes_that_are_no_images(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"shape"):
        open_images("npz", tmp_path / "x.npy")


def test_labels_of_an_npz(tmp_path):
    np.savez(tmp_path / "x.npz", images=RGB, labels=np.array([0, 2, 1, 1, 2]))
    data = open_images("npz", tmp_path / "x.npz")
    assert data.label_names == ("0", "1", "2")
    assert data.labels[1].tolist() == [-1, -1, 1]
    np.savez(tmp_path / "y.npz", x=RGB, y=np.eye(5, 2, dtype=bool), classes=["red", "round"])
    data = open_images("npz", tmp_path / "y.npz")
    assert data.label_names == ("red", "round")
    assert data.labels[:3].tolist() == [[1, -1], [-1, 1], [-1, -1]]


@pytest.mark.parametrize("kind", ["S", "U"])
def test_names_may_be_bytes(tmp_path, kind):
    names = np.array(["cat", "dog"]).astype(kind)
    np.savez(tmp_path / "x.npz", images=RGB[:2], labels=[0, 1], label_names=names)
    assert open_images("npz", tmp_path / "x.npz").label_names == ("cat", "dog")
    names = [b"caf\xe9", b"dog\n"] if kind == "S" else ["caf\udce9", "dog\n"]
    np.savez(tmp_path / "y.npz", images=RGB[:2], labels=[0, 1], label_names=names)
    assert open_images("npz", tmp_path / "y.npz").label_names == ("caf\\xe9", "dog")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "cat"], "has the name 'cat' twice"),
        (["cat", " "], "has an empty name"),
        ("cat", r"shape \(\)\. Save a list of texts"),
        ([0.5, 1.5], "float64"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path, names, message):
    np.savez(tmp_path / "x.npz", images=RGB[:2], labels=[0, 1], label_names=names)
    with pytest.raises(DataError, match=message):
        open_images("npz", tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 0], [[-1, 1], [1, -1]]),
        ([[1], [2]], [[-1, 1, -1], [-1, -1, 1]]),  # CIFAR's column of classes
        ([[0], [1]], [[-1], [1]]),  # one label, absent and present
        ([[0, 1], [1, 1]], [[-1, 1], [1, 1]]),
        ([[0, -1], [1, 1]], [[0, -1], [1, 1]]),  # with a −1, 0 is unknown
        ([1.0, 0.0], [[-1, 1], [1, -1]]),  # floats that are whole numbers
        ([[1.0, 0.0], [0.0, 1.0]], [[1, -1], [-1, 1]]),
    ],
)
def test_classes_and_signs(given, expected):
    labels = read_labels(np.array(given), 2, where="x.npz")
    assert labels.dtype == np.int8
    assert labels.tolist() == expected


@pytest.mark.parametrize(
    "given",
    [
        1,
        [[], []],
        [1],
        [0.5, 2.0],
        [np.nan, 1],
        [-1.0, 0.0],
        [-1, 0],
        [10**9, 0],
        [[0, 2], [1, 1]],
        ["a", "b"],
    ],
)
def test_labels_that_are_none(given):
    with pytest.raises(DataError, match=r"x.npz: the labels have type .*\. Save 2 "):
        read_labels(np.array(given), 2, where="x.npz")


def test_files_that_are_no_arrays(tmp_path):
    np.savez(tmp_path / "keys.npz", pictures=RGB)
    with pytest.raises(DataError, match=r"has pictures\.npy\. Name the images images or x"):
        open_images("npz", tmp_path / "keys.npz")
    np.save(tmp_path / "whole.npy", RGB)
    (tmp_path / "half.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-100])
    for name in ("empty.npz", "empty.npy"):
        (tmp_path / name).write_bytes(b"")
    np.savez(tmp_path / "dict.npz", images=RGB, labels=[0] * 5, label_names={0: "cat"})
    for name in ("empty.npz", "empty.npy", "half.npy", "dict.npz"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as arrays: .*\. Save arrays"):
            open_images("npz", tmp_path / name)


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "label_names.npy"])
@pytest.mark.parametrize(
    "content",
    [
        header((1, 2**40, 2**40)),
        header((2**62, 2**62, 2**62)),
        header((-1, 4, 4)) + bytes(16),
        header((1, 4, 4)) + bytes(10**6),  # more than it declares
        header((2,), "<U1000000000"),
        header((2,)).replace(b"2", b"9" * 50),
    ],
)
def test_arrays_are_as_large_as_they_declare(tmp_path, name, content):
    file = io.BytesIO()
    np.savez(file, x=RGB[:1], y=[0])
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with zipfile.ZipFile(file) as plain:
            for each in plain.namelist():
                archive.writestr(each, plain.read(each))
        archive.writestr(name.replace("images", "Images"), content)
    with pytest.raises(DataError, match=r"x\.npz cannot be read as arrays: .*\. Save arrays"):
        open_images("npz", tmp_path / "x.npz")
    (tmp_path / "x.npy").write_bytes(content)
    if len(content) < 10**6:
        with pytest.raises(DataError, match=r"x\.npy cannot be read as arrays: .*\. Save arrays"):
            open_images("npz", tmp_path / "x.npy")


def test_arrays_that_the_disk_cannot_hold_are_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((9, 99, 99), np.uint8))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 50_000))
    with pytest.raises(DataError, match=r"images takes 88,209 bytes, .* has 50,000"):
        open_images("npz", tmp_path / "x.npz")


def test_one_image_of_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "largest_image", lambda: 71)
    np.save(tmp_path / "x.npy", RGB)
    with pytest.raises(DataError, match=r"have 8x9 pixels, more than an image file may have"):
        open_images("npz", tmp_path / "x.npy")
