import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import SOURCES, DataError, check_data, detect_source, open_images
from fromnoise.data import dataset as cache_module
from fromnoise.data.dataset import verify_entries
from fromnoise.data.sources import base
from fromnoise.data.sources.base import map_in_order


def test_digits_are_the_uci_set():
    data = open_images("digits")
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.label_names == tuple("0123456789")
    assert np.bincount((data.labels == 1).argmax(axis=1)).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert ((data.labels == 1).sum(axis=1) == 1).all()
    levels = np.rint(np.arange(17) * 255 / 16)
    assert set(np.unique(data.images)) == set(levels.astype(int))
    first = [0, 0, 5, 13, 9, 1, 0, 0]  # of the UCI file optdigits.tes
    np.testing.assert_array_equal(data.images[0, 0, 0], levels[first])


def test_channels_are_detected(folder, save):
    assert open_images("folder", folder).images.shape[1] == 1
    save("colour.png", np.full((4, 4, 3), (255, 0, 0), np.uint8))
    both = open_images("folder", folder)
    assert both.images.shape == (4, 3, 4, 4)
    assert both.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert both.images[1, :, 0, 0].tolist() == [10, 10, 10]
    assert open_images("folder", folder, channels=1).images[0, 0, 0, 0] == 76
    with pytest.raises(DataError, match=r"data.channels is 4, but the images have 3"):
        open_images("folder", folder, channels=4)


def test_grey_that_lets_a_colour_through_is_colour(folder, save):
    save("clear.png", np.dstack([np.full((4, 4), 9, np.uint8), np.zeros((4, 4), np.uint8)]))
    assert open_images("folder", folder).images.shape[1] == 1
    data = open_images("folder", folder, background=(255, 0, 0))
    assert data.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert check_data(folder, background=(255, 0, 0)).channels == 3


def test_sizes_that_differ_need_a_size(folder, save):
    save("other.png", np.zeros((6, 5), np.uint8))
    with pytest.raises(DataError, match="have 2 sizes, most often 4×4") as error:
        open_images("folder", folder)
    assert "(H×W; 3 of 4), but other.png is 6×5. Set data.size" in str(error.value)
    assert open_images("folder", folder, size=(4, 2)).images.shape == (4, 1, 4, 2)


def test_some_files_of_a_folder_are_an_entry_of_their_own(folder, save):
    save("other.png", np.zeros((6, 5), np.uint8))
    for numbers in ((1, 10), (1, 2, 10)):
        some = open_images("folder", folder, only=[f"img{number}.png" for number in numbers])
        assert some.images[:, 0, 0, 0].tolist() == [{1: 10, 2: 20, 10: 30}[n] for n in numbers]


def forbid(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("decoded although it is in the cache")

    monkeypatch.setattr(base.decode, "read_picture", fail)
    monkeypatch.setattr(base.decode, "read_header", fail)


def test_the_second_time_nothing_is_decoded(folder, monkeypatch):
    (folder / "bad.png").write_bytes(b"bad")
    first = open_images("folder", folder)
    forbid(monkeypatch)
    second = open_images("folder", folder)
    np.testing.assert_array_equal(first.images, second.images)
    assert second.fingerprint == first.fingerprint
    assert second.skipped == first.skipped == ("bad.png: not an image that Pillow can read",)
    with pytest.raises(DataError, match=r"decoded although"):  # the test can fail
        open_images("folder", folder, fit="pad")


def test_a_changed_file_is_seen(folder):
    first = open_images("folder", folder)
    path = folder / "img1.png"
    stat = path.stat()
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    second = open_images("folder", folder)
    assert second.images[0, 0, 0, 0] == 99
    assert first.images[0, 0, 0, 0] == 10  # the old entry stands
    assert first.fingerprint != second.fingerprint


def test_the_same_content_elsewhere_has_the_same_fingerprint(folder, tmp_path):
    first = open_images("folder", folder)
    folder.rename(tmp_path / "moved")
    (tmp_path / "moved" / "img10.png").rename(tmp_path / "moved" / "img30.png")
    again = open_images("folder", tmp_path / "moved", cache=tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    assert open_images("folder", tmp_path / "moved", channels=3).fingerprint != first.fingerprint


def test_labels_and_their_names_are_in_the_fingerprint(save):
    for value, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        root = save(name, np.full((2, 2), value, np.uint8)).parents[1]
    first = open_images("folder", root).fingerprint
    (root / "a" / "2.png").rename(root / "b" / "2.png")  # the same images in the same order
    second = open_images("folder", root).fingerprint
    (root / "b").rename(root / "c")
    assert len({first, second, open_images("folder", root).fingerprint}) == 3


def test_every_option_has_its_own_entry(save):
    root = save("x.png", Image.new("RGBA", (4, 2), (0, 0, 0, 0))).parent
    for options, shape, value in (
        ({}, (1, 3, 2, 4), 255),
        ({"background": (9, 9, 9)}, (1, 3, 2, 4), 9),
        ({"size": (4, 4)}, (1, 3, 4, 4), 255),
        ({"size": (2, 2)}, (1, 3, 2, 2), 255),
        ({"channels": 1}, (1, 1, 2, 4), 255),
    ):
        images = open_images("folder", root, **options).images
        assert (images.shape, images.flat[0]) == (shape, value)


def test_skipped_images_take_their_labels_with_them(save):
    for i, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        root = save(name, np.full((2, 2), i, np.uint8)).parents[1]
    (root / "a" / "1.png").write_bytes(b"")
    data = open_images("folder", root)
    assert data.images[:, 0, 0, 0].tolist() == [1, 2]
    assert data.labels.tolist() == [[1, -1], [-1, 1]]


def test_strict_makes_broken_files_an_error(folder):
    for i in range(5):
        (folder / f"bad{i}.png").write_bytes(b"")
    assert len(open_images("folder", folder).skipped) == 5
    with pytest.raises(DataError, match=r"5 of 8 images cannot be read: bad0.png: ") as error:
        open_images("folder", folder, strict=True)
    assert "and 2 more" in str(error.value)


def test_what_a_killed_process_left_is_ignored(folder, cache):
    old = cache / ".writing-old-1-0123abcd"
    new = cache / ".writing-new-1-0123abcd"
    earlier = cache / ".partial-x1y2"  # of an earlier version
    for partial in (old, new, earlier):
        partial.mkdir()
        (partial / "images.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    assert len(open_images("folder", folder)) == 3
    assert not old.exists()  # abandoned a day ago
    assert not earlier.exists()
    assert new.exists()  # may be somebody's
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("name", ["images.npy", "meta.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_damaged_entry_is_written_anew(folder, cache, name, damage):
    first = open_images("folder", folder)
    (entry,) = cache.iterdir()
    if damage is None:
        (entry / name).unlink()
    else:
        (entry / name).write_bytes(damage)
    second = open_images("folder", folder)
    assert second.fingerprint == first.fingerprint
    assert [path.name for path in cache.iterdir()] == [entry.name]


@pytest.fixture
def labelled(save, cache) -> tuple[Path, Path]:
    """Images with labels, opened once: their folder, and their entry of the cache."""
    for name in ("a/1.png", "b/2.png", "b/3.png"):
        root = save(name, np.full((4, 4), int(name[2]), np.uint8)).parents[1]
    open_images("folder", root)
    (entry,) = cache.iterdir()
    return root, entry


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def rename_a_label(path: Path) -> None:
    path.write_text(path.read_text().replace('"a"', '"c"'))


DAMAGE = [
    ("images.npy", flip, "the SHA-256 of images.npy differs"),
    ("images.npy", fewer_rows, "images.npy has 160 bytes instead of 176"),
    ("labels.npy", flip, "the SHA-256 of labels.npy differs"),
    ("labels.npy", fewer_rows, "labels.npy has 132 bytes instead of 134"),
    ("labels.npy", Path.unlink, "No such file or directory"),
    ("meta.json", rename_a_label, "the SHA-256 of meta.json differs"),
    ("meta.json", lambda path: path.write_text("[" * 99_999), "recursion"),
    ("meta.json", lambda path: path.write_bytes(b"\xff"), "utf-8"),
    ("meta.json", lambda path: path.write_text("[]"), "the SHA-256 of meta.json differs"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGE)
def test_damage_is_seen_said_and_mended(labelled, caplog, name, damage, reason):
    root, entry = labelled
    whole = {path.name: path.read_bytes() for path in entry.iterdir() if path.suffix == ".npy"}
    damage(entry / name)
    data = open_images("folder", root)
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert (data.label_names, data.labels.tolist()) == (("a", "b"), [[1, -1], [-1, 1], [-1, 1]])
    (line,) = caplog.messages
    assert line.startswith(f"the cache entry {entry} is damaged (")
    assert reason in line
    assert line.endswith("). The images are decoded again.")
    assert {path.name: path.read_bytes() for path in entry.glob("*.npy")} == whole


def test_a_copied_cache_is_used(labelled, cache, tmp_path, monkeypatch, caplog):
    root, _ = labelled
    copied = shutil.copytree(cache, tmp_path / "copied", copy_function=shutil.copyfile)
    forbid(monkeypatch)
    hashed = []
    sha256 = cache_module.sha256
    monkeypatch.setattr(cache_module, "sha256", lambda path: (hashed.append(path), sha256(path))[1])
    for _ in range(2):
        assert len(open_images("folder", root, cache=copied)) == 3
    assert {path.name for path in hashed} == {"images.npy", "labels.npy"}
    assert len(hashed) == 2  # once each
    assert not caplog.messages


def test_verifying_finds_what_kept_its_size_and_time(labelled, cache, tmp_path):
    root, entry = labelled
    (tmp_path / "other").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "other" / "x.png")
    open_images("folder", tmp_path / "other")
    open_images("folder", root, size=(2, 2))
    old = cache / "of an earlier version"
    old.mkdir()
    (old / "meta.json").write_text('{"shape": []}')
    assert verify_entries(root) == ["cache: 2 verified, 0 damaged"]
    stat = (entry / "images.npy").stat()
    flip(entry / "images.npy")
    os.utime(entry / "images.npy", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_images("folder", root).images[-1, 0, 3, 3] == 2  # not seen
    lines = verify_entries(root)
    assert lines[-1] == "cache: 1 verified, 1 damaged"
    assert "the SHA-256 of images.npy differs). It is removed" in lines[0]
    assert len(list(cache.iterdir())) == 3
    assert open_images("folder", root).images[-1, 0, 3, 3] == 3
    assert verify_entries(root) == ["cache: 2 verified, 0 damaged"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_cache_can_be_shared(save, cache, umask):
    root = save("a/1.png", np.zeros((4, 4), np.uint8)).parents[1]
    before = os.umask(umask)
    try:
        open_images("folder", root, cache=cache / "new")
    finally:
        os.umask(before)
    for path in (cache / "new").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask


def test_a_cache_of_somebody_else(labelled, monkeypatch):
    root, entry = labelled
    read, make = Path.read_text, Path.mkdir

    def refuse(path, *args, **options):
        if path.is_relative_to(entry.parent):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return (read if not args else make)(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refuse)
        for use in (lambda: open_images("folder", root), lambda: verify_entries(root)):
            with pytest.raises(
                DataError, match=r"cannot be read \(Permission denied\).*FROMNOISE_"
            ):
                use()
    assert len(open_images("folder", root)) == 3
    forbid(monkeypatch)  # refused before the work
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match=r"cannot be written \(Permission denied\).*FROMNOISE_"):
        open_images("folder", root, size=(2, 2), channels=1)


def test_two_at_once_share_one_entry(folder, cache, monkeypatch):
    barrier = threading.Barrier(2, timeout=10)
    replace = os.replace

    def together(*args):
        barrier.wait()
        replace(*args)

    monkeypatch.setattr(os, "replace", together)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(open_images("folder", folder)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({data.fingerprint for data in results}) == 1
    assert len(results) == 2
    assert len(list(cache.iterdir())) == 1


def test_a_full_disk_leaves_nothing(folder, cache, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"the disk is full: .*FROMNOISE_CACHE"):
        open_images("folder", folder)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written .*FROMNOISE_CACHE"):
        open_images("folder", folder, cache=tmp_path / "file" / "cache")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "own"))
    assert cache_module.default_cache() == tmp_path / "own"
    monkeypatch.delenv("FROMNOISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_module.default_cache() == tmp_path / "fromnoise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cache_module, "user_cache_path", lambda name, appauthor: Path("/new", name))
    assert cache_module.default_cache() == Path("/new/fromnoise")
    earlier = tmp_path / ".cache" / "fromnoise"
    earlier.mkdir(parents=True)
    assert cache_module.default_cache() == earlier
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "own"))
    assert cache_module.default_cache() == tmp_path / "own"


def test_an_entry_is_plain_numpy_and_json(folder, cache):
    data = open_images("folder", folder)
    (entry,) = cache.iterdir()
    assert np.load(entry / "images.npy").shape == (3, 1, 4, 4)
    assert json.loads((entry / "meta.json").read_text())["fingerprint"] == data.fingerprint


def test_progress_is_reported(folder):
    calls = []
    open_images("folder", folder, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, r"data.size is \(0, 4\)\. Give a height and a width"),
        ({"channels": 0}, r"data.channels is 0\. Give 1, 3"),
        ({"fit": "stretch"}, r"data.fit is 'stretch'\. Choose one of crop, pad, squash"),
        ({"background": (0, 0, 256)}, r"each in 0\.\.255"),
        ({"split": "test"}, "source folder has no splits"),
    ],
)
def test_options_out_of_range(folder, options, message):
    with pytest.raises(DataError, match=message):
        open_images("folder", folder, **options)


def test_an_unknown_source_lists_the_known():
    with pytest.raises(DataError, match=rf"'photos'\. Choose one of {', '.join(SOURCES)}"):
        open_images("photos")


def test_sources_are_detected(folder, tmp_path):
    for name, source in (("a.ZIP", "zip"), ("a.npz", "npz"), ("a.npy", "npz")):
        (tmp_path / name).touch()
        assert detect_source(tmp_path / name) == source
    assert detect_source(folder) == "folder"
    (folder / "t10k-images-idx3-ubyte.gz").touch()
    assert detect_source(folder) == "idx"
    assert detect_source(str(folder / "t10k-images-idx3-ubyte.gz")) == "idx"
    (tmp_path / "a.tar").touch()
    with pytest.raises(
        DataError, match=r"a\.tar is a file with extension \.tar\. Give a folder of images"
    ):
        detect_source(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"nothing does not exist"):
        detect_source(tmp_path / "nothing")


def test_threads_keep_the_order_and_do_not_run_ahead():
    started = []

    def work(i: int) -> int:
        started.append(i)
        time.sleep(0.0002 * (i % 3))
        return i

    numbers = map_in_order(work, 1000)
    taken = [next(numbers)]
    time.sleep(0.1)  # long enough to start all of them, if that were allowed
    assert len(started) <= 8 * (2 * min(8, os.cpu_count() or 1) + 1)
    taken.extend(numbers)
    assert taken == list(range(1000))


def test_threads_end_when_their_consumer_does():
    numbers = map_in_order(lambda i: i, 10_000)
    assert next(numbers) == 0
    numbers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda i: 1 // (50 - i), 100))


WITHOUT_TORCH = """
import sys, types
package = types.ModuleType("fromnoise")  # not its __init__, which may import everything
package.__path__ = [sys.argv[1]]
sys.modules["fromnoise"] = package
from fromnoise.data import check_data, open_images, write_shapes
check_data(source="digits")
open_images("digits", cache=sys.argv[2])
write_shapes(sys.argv[2] + "/shapes", train=1, test=1, size=16)
assert "torch" not in sys.modules
"""


def test_checking_decoding_and_rendering_need_no_torch(tmp_path):
    """It takes seconds to import, in each process that renders, too."""
    package = Path(cache_module.__file__).parents[1]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, package, tmp_path], check=True)
