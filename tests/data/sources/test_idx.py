import gzip
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fromnoise.data import SOURCES, DataError, open_images
from fromnoise.data.sources.idx import DOWNLOADABLE, FASHION, SPLITS

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
CLASSES = np.array([3, 0, 9, 1, 1, 2], np.uint8)


def write(path: Path, array: np.ndarray) -> Path:
    content = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content += array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(params=["", ".gz"])
def mnist(request, tmp_path) -> Path:
    write(tmp_path / f"train-images-idx3-ubyte{request.param}", IMAGES)
    write(tmp_path / f"train-labels-idx1-ubyte{request.param}", CLASSES)
    write(tmp_path / f"t10k-images-idx3-ubyte{request.param}", IMAGES[:2])
    write(tmp_path / f"t10k-labels-idx1-ubyte{request.param}", CLASSES[:2])
    return tmp_path


def check(data, count):
    np.testing.assert_array_equal(data.images[:, 0], IMAGES[:count])
    np.testing.assert_array_equal((data.labels == 1).argmax(axis=1), CLASSES[:count])
    assert set(np.unique(data.labels)) == {-1, 1}


def test_both_splits(mnist):
    train = open_images("idx", mnist)
    check(train, 6)
    assert train.label_names == tuple("0123456789")
    check(open_images("idx", mnist, split="test"), 2)
    with pytest.raises(DataError, match=r"data.split is 'val'\. Choose one of train, test"):
        open_images("idx", mnist, split="val")


def test_one_file_with_labels_beside_it(mnist):
    (path,) = mnist.glob("t10k-images*")
    check(open_images("idx", path), 2)
    with pytest.raises(DataError, match=r"data.split is 'test', but data.path is one file"):
        open_images("idx", path, split="test")
    next(mnist.glob("t10k-labels*")).unlink()
    assert open_images("idx", path).labels is None


def test_dotted_names_and_a_mix_of_gzip(tmp_path):
    write(tmp_path / "train-images.idx3-ubyte", IMAGES)
    write(tmp_path / "train-labels.idx1-ubyte.gz", CLASSES)
    check(open_images("idx", tmp_path), 6)


def test_several_sets_in_one_folder_are_not_guessed(tmp_path):
    for name in ("letters", "digits"):
        write(tmp_path / f"emnist-{name}-train-images-idx3-ubyte", IMAGES)
    with pytest.raises(DataError, match=r"several files of split 'train': emnist-digits-train"):
        open_images("idx", tmp_path)


def test_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(
        DataError, match=r"images of split 'train'\. Add train-images-idx3-ubyte\[.gz\]"
    ):
        open_images("idx", tmp_path)
    path = write(tmp_path / "train-images-idx3-ubyte", IMAGES)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], r"has shape \(6, 5, 4\), so 120 bytes, but contains 119\. Copy it again"),
        (whole[:9], "cannot be read as an idx file"),
        (b"", "cannot be read as an idx file"),
        (b"GIF89a" + whole, "is not an idx file of unsigned bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_images("idx", path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-30])
    with pytest.raises(DataError, match=r"cannot be read as an idx file"):
        open_images("idx", tmp_path, split="test")


def test_labels_that_do_not_match(tmp_path):
    write(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write(tmp_path / "train-labels-idx1-ubyte", CLASSES[:5])
    with pytest.raises(DataError, match=r"has 6 images, but .* has labels of shape \(5,\)"):
        open_images("idx", tmp_path)


# torchvision's data sets, with a stand-in for torchvision: nothing is downloaded.


def stand_in(monkeypatch, **classes) -> None:
    datasets = types.ModuleType("torchvision.datasets")
    for name, value in classes.items():
        setattr(datasets, name, value)
    package = types.ModuleType("torchvision")
    package.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def fetch_fashion(root, *, train, download):
    assert train
    assert download
    write(Path(root) / "FashionMNIST/raw/train-images-idx3-ubyte", IMAGES)
    write(Path(root) / "FashionMNIST/raw/train-labels-idx1-ubyte", CLASSES)


def no_network(root, *, train, download):
    raise OSError("<urlopen error\nno route to host>")


def test_fashion_mnist_is_fetched_once_into_the_cache(monkeypatch, cache):
    stand_in(monkeypatch, FashionMNIST=fetch_fashion)
    data = open_images("fashion-mnist")
    check(data, 6)
    assert data.label_names[0] == "T-shirt/top"
    assert (cache / "downloads/FashionMNIST/raw").is_dir()
    stand_in(monkeypatch, FashionMNIST=no_network)
    assert open_images("fashion-mnist").fingerprint == data.fingerprint


def test_fashion_mnist_is_fetched_to_the_path(monkeypatch, tmp_path):
    stand_in(monkeypatch, FashionMNIST=fetch_fashion)
    check(open_images("fashion-mnist", tmp_path / "here"), 6)
    assert (tmp_path / "here/FashionMNIST/raw").is_dir()


def test_a_local_copy_needs_no_torchvision(monkeypatch, mnist):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it would fail
    check(open_images("fashion-mnist", mnist), 6)
    check(open_images("mnist", mnist, split="test"), 2)


@pytest.mark.parametrize("source", ["mnist", "fashion-mnist", "cifar10"])
def test_a_failed_download_is_one_line(monkeypatch, tmp_path, source):
    stand_in(monkeypatch, MNIST=no_network, FashionMNIST=no_network, CIFAR10=no_network)
    with pytest.raises(DataError, match=rf"{source}: the download failed .*--data PATH") as error:
        open_images(source, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=rf"{source}: downloads are off, .*--data PATH"):
        open_images(source, tmp_path, download=False)


def test_cifar10(monkeypatch, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def cifar(root, *, train, download=False):
        if download:
            (Path(root) / "cifar-10-batches-py").mkdir(parents=True)
            (Path(root) / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"1")
        data = images if train else images[:1]
        names = ["plane", "car"]
        return types.SimpleNamespace(data=data, targets=[0, 1, 1, 0][: len(data)], classes=names)

    stand_in(monkeypatch, CIFAR10=cifar)
    data = open_images("cifar10", tmp_path)
    np.testing.assert_array_equal(data.images, images.transpose(0, 3, 1, 2))
    assert data.labels.tolist() == [[1, -1], [-1, 1], [-1, 1], [1, -1]]
    assert data.label_names == ("plane", "car")
    inner = tmp_path / "cifar-10-batches-py"
    assert len(open_images("cifar10", inner, split="test", download=False)) == 1


def test_the_class_names_are_torchvisions():
    datasets = pytest.importorskip("torchvision.datasets")
    assert list(FASHION) == datasets.FashionMNIST.classes


def test_every_source_with_a_download_has_its_facts():
    module = SOURCES["mnist"].__module__
    known = {name for name, source in SOURCES.items() if source.__module__ == module} - {"idx"}
    assert set(DOWNLOADABLE) == known
    assert all(set(each.counts) == set(SPLITS) for each in DOWNLOADABLE.values())
    assert DOWNLOADABLE["fashion-mnist"].classes == len(FASHION)


def test_a_gz_with_a_damaged_byte_is_one_line(tmp_path):
    path = write(tmp_path / "train-images-idx3-ubyte.gz", IMAGES)
    whole = path.read_bytes()
    for at in range(10, len(whole) - 8):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(DataError):
            open_images("idx", path)


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("axes", [(2**32 - 1,) * 3, (2**20, 2**10, 2**10), (1, 4, 4)])
def test_a_file_is_as_large_as_it_declares(tmp_path, axes, zipped):
    content = struct.pack(">HBB3I", 0, 8, 3, *axes) + bytes(17)
    path = tmp_path / f"train-images-idx3-ubyte{zipped}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = "more than 16" if axes == (1, 4, 4) else "17"  # the rest is not read
    with pytest.raises(DataError, match=rf"so .* bytes, but contains {found}\. Copy it again"):
        open_images("idx", path)
