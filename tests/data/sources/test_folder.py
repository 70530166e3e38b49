import errno
import io
import json
import os
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import DataError, check_data, detect_source, open_images
from fromnoise.data.dataset import open_with_log
from fromnoise.data.sources import base
from fromnoise.data.sources.folder import folder_labels
from fromnoise.data.text import natural_key


def values(images: np.ndarray) -> list[int]:
    return [int(image.flat[0]) for image in images]


def grey(value: int, side: int = 4) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


def test_natural_order():
    names = ["img10.png", "img2.png", "IMG1.png", "b/1.png", "a b/1.png", "a/10.png", "a/9.png"]
    expected = ["a/9.png", "a/10.png", "a b/1.png", "b/1.png", "IMG1.png", "img2.png", "img10.png"]
    assert sorted(names, key=natural_key) == expected


def test_a_sub_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    (folder / "dog").mkdir()
    scan = os.scandir

    def refused(path):
        if Path(path).name == "dog":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"dog cannot be read: Permission denied\. Allow it"):
        open_images("folder", folder)


def test_a_folder_in_natural_order(folder):
    data = open_images("folder", folder)
    assert (len(data), data.images.shape, data.source) == (3, (3, 1, 4, 4), "folder")
    assert values(data.images) == [10, 20, 30]
    assert (data.labels, data.label_names, data.skipped) == (None, (), ())
    assert data.images.dtype == np.uint8
    assert isinstance(data.images, np.memmap)
    with pytest.raises(ValueError, match=r"read-only"):
        data.images[0] = 0


def test_the_mixed_folder(save, png16):
    """Every kind of file at once, 8×8, with a known colour each."""
    deep = np.full((8, 8), 40 * 257 + 100, np.uint16)
    cmyk = Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK")
    palette = Image.new("P", (8, 8))
    palette.putpalette([255, 0, 255, 5, 6, 7])
    turned = Image.new("RGB", (16, 8), "black")
    turned.paste("white", (0, 0, 8, 8))
    exif = turned.getexif()
    exif[0x0112] = 6
    green = Image.new("RGB", (8, 8), (0, 128, 0))
    save("01.png", Image.new("RGB", (8, 8), (1, 2, 3)))
    save("02.png", Image.new("RGBA", (8, 8), (255, 0, 255, 0)))
    save("03.png", Image.new("LA", (8, 8), (9, 255)))
    save("04.png", palette, transparency=0)
    save("05.png", deep)
    save("06.jpg", cmyk, quality=95)
    save("07.jpeg", turned, exif=exif, quality=100, subsampling=0)
    save("08.gif", green)
    save("09.webp", green, lossless=True)
    save("10.tif", green)
    save("11.TIFF", green)
    save("12.BMP", green)
    root = save("13.PNG", green).parent
    save("14/deeper/14.png", green)
    (root / "15.png").write_bytes(b"\x89PNG\r\n\x1a\nno more than a start")
    (root / "16.png").write_bytes(png16(np.full((8, 8, 3), (257, 514, 65535), np.uint16)))
    (root / "notes.txt").write_text("not an image")

    data = open_images("folder", root, size=(8, 8), background=(0, 0, 255))
    expected = {
        1: (1, 2, 3),
        2: (0, 0, 255),
        3: (9, 9, 9),
        4: (0, 0, 255),
        5: (40, 40, 40),
        16: (1, 2, 255),
        **dict.fromkeys((8, 9, 10, 11, 12, 13, 14), (0, 128, 0)),
    }
    order = [14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16]
    order = sorted(order, key=lambda n: natural_key("14/deeper" if n == 14 else f"{n:02}.png"))
    assert len(data) == len(order)
    images = dict(zip(order, data.images, strict=True))
    for number, colour in expected.items():
        assert (images[number] == np.array(colour)[:, None, None]).all(), number
    np.testing.assert_allclose(images[6][:, 4, 4], (200, 40, 90), atol=6)
    assert images[7][:, 0].min() > 200  # the left half of the file is the top of the picture
    assert images[7][:, -1].max() < 50
    assert len(data.skipped) == 1
    assert data.skipped[0].startswith("15.png: ")


def test_hidden_files_are_not_there(folder, save):
    for name in (".hidden.png", "._img1.png", ".thumbs/x.png", "__MACOSX/img1.png"):
        save(name, grey(99))
    assert values(open_images("folder", folder).images) == [10, 20, 30]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_and_loops_end(folder, tmp_path):
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    other = tmp_path / "elsewhere"
    other.mkdir()
    Image.fromarray(grey(77)).save(other / "x.png")
    (folder / "link").symlink_to(other, target_is_directory=True)
    (folder / "nowhere.png").symlink_to(tmp_path / "missing.png")
    data = open_images("folder", folder)
    assert values(data.images) == [10, 20, 30, 77]
    assert data.skipped == ("nowhere.png: No such file or directory",)


def test_sub_folders_are_classes(save):
    for name, value in (("cat/1.png", 1), ("dog/1.png", 2), ("cat/far/below/2.png", 3)):
        root = save(name, grey(value))
    data = open_images("folder", root.parents[3])
    assert data.label_names == ("cat", "dog")
    found = dict(zip(values(data.images), data.labels.tolist(), strict=True))
    assert found == {1: [1, -1], 3: [1, -1], 2: [-1, 1]}


def test_an_image_outside_the_class_folders_has_no_known_class():
    labels, names = folder_labels(["x.png", "a/1.png", "b/1.png"])
    assert names == ("a", "b")
    np.testing.assert_array_equal(labels, [[0, 0], [1, -1], [-1, 1]])
    assert labels.dtype == np.int8


def test_a_wrapping_folder_is_no_class():
    assert folder_labels(["photos/x.png", "photos/y.png"], wrapper="Photos") == (None, ())
    _, names = folder_labels(["set/train/dog 10/x.png", "set/train/dog 9/y.png"])
    assert names == ("dog 9", "dog 10")


def pack(root: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


def test_a_zip_is_its_folder(save, tmp_path):
    for name, value in (("a/img10.png", 3), ("a/img2.png", 2), ("b/x.PNG", 5)):
        save(name, grey(value))
    root = save("__MACOSX/._x.png", grey(9)).parents[1]
    (root / "a" / "bad.png").write_bytes(b"nothing")
    loose = open_images("folder", root)
    packed = open_images("zip", pack(root, tmp_path / "x.zip"))
    wrapped = open_images("zip", pack(root, tmp_path / "y.zip", prefix="my pictures/"))
    assert values(packed.images) == [2, 3, 5]
    assert packed.label_names == ("a", "b")
    assert packed.fingerprint == wrapped.fingerprint == loose.fingerprint
    assert packed.skipped == ("a/bad.png: not an image that Pillow can read",)
    assert not list(tmp_path.glob("*.png"))


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_file_that_is_twice_in_a_zip_is_said(tmp_path):
    files = {"a/1.png": png(1), "./a/1.png": png(2), "b/3.png": png(3)}
    data = open_images("zip", write_zip(tmp_path / "x.zip", files))
    assert values(data.images) == [2, 3]
    assert data.notes == ("x.zip has 1 repeated file names: the last of each is read.",)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey(value)).save(file, "PNG")
    return file.getvalue()


def test_a_zip_of_windows_has_backslashes(tmp_path):
    files = {"set\\a\\1.png": png(1), "set\\b\\2.png": png(2), "__MACOSX\\a\\._1.png": b"x"}
    data = open_images("zip", write_zip(tmp_path / "x.zip", files))
    assert (values(data.images), data.label_names, data.skipped) == ([1, 2], ("a", "b"), ())
    labels = {"set\\labels.csv": b"file,label\na\\1.png,red\nb\\2.png,blue\n"}
    data = open_images("zip", write_zip(tmp_path / "y.zip", files | labels))
    assert data.label_names == ("blue", "red")
    assert data.labels.tolist() == [[-1, 1], [1, -1]]
    data = open_images("zip", write_zip(tmp_path / "w.zip", {"\\alpha.png": png(1)}))
    assert (values(data.images), data.labels) == ([1], None)
    mixed = {"a/1.png": png(1), "b\\2.png": png(2)}  # a name may contain one
    data = open_images("zip", write_zip(tmp_path / "z.zip", mixed))
    assert data.labels.tolist() == [[1], [0]]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_or_not_printable(save, tmp_path, caplog):
    root = save("dog/1.png", grey(1)).parents[1]
    for name in (b"caf\xe9", b"new\nline", b"\x1b[31m"):
        folder = os.path.join(os.fsencode(root), name)
        os.mkdir(folder)
        for file, content in ((b"1.png", png(2)), (b"bad\x1b\xe9.png", b"")):
            Path(os.fsdecode(os.path.join(folder, file))).write_bytes(content)
    report = check_data(root)
    data = open_with_log("folder", root)
    assert data.label_names == ("\\x1b[31m", "caf\\xe9", "dog", "new\\nline")
    assert set(report.classes) == set(data.label_names)
    for text in (str(report), *data.skipped, caplog.text):
        text.encode()
        assert "\x1b" not in text
        assert r"bad\x1b\xe9.png: the file is empty" in text or "skipped" not in text
    assert len(data.skipped) == len(report.broken) == 3
    with pytest.raises(DataError, match=r"4 of 7|3 of 7 images cannot be read: .*bad\\x1b\\xe9"):
        open_images("folder", root, strict=True)
    other = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9")))
    other.mkdir()
    with pytest.raises(DataError, match=r"caf\\xe9 is not UTF-8\. Rename it, or give a link"):
        open_images("folder", other)


def test_names_are_compared_in_one_form_of_unicode(save, tmp_path):
    composed, decomposed = "\u00e9", "e\u0301"
    for name in (composed, decomposed):  # two files on Linux, one on macOS
        root = save(f"{name}/{composed}.png", grey(1)).parents[1]
    save(f"{composed}/{decomposed}2.png", grey(2))
    data = open_images("folder", root)
    assert data.label_names == (composed,)
    assert (data.labels == 1).all()
    named = {f"{decomposed}/{composed}.png": decomposed, f"{composed}/{composed}2.png": "b"}
    (root / "labels.json").write_text(json.dumps(named))
    for source, path in (("folder", root), ("zip", pack(root, tmp_path / "x.zip"))):
        data = open_images(source, path)
        assert (data.label_names, data.skipped) == (("b", composed), ())
        found = dict(zip(values(data.images), data.labels.tolist(), strict=True))
        assert found == {1: [-1, 1], 2: [1, -1]}


SPLIT = ("train/cat/1", "train/dog/2", "test/dog/3", "val/owl/4")


@pytest.mark.parametrize(
    ("names", "split", "expected", "classes"),
    [
        (SPLIT, "train", [1, 2], ("cat", "dog", "owl")),
        (SPLIT, "test", [3], ("cat", "dog", "owl")),
        (("set/Train/1", "set/Validation/2"), "train", [1], ()),
        (("set/Train/1", "set/Validation/2"), "test", [2], ()),
        (("training/a/1", "train/a/2", "testing/b/3"), "train", [2, 1], ("a", "b")),
        (("train/a/1", "bus/b/2"), "train", [2, 1], ("bus", "train")),  # vehicles
        (("train/a/1", "test/b/2", "3"), "train", [1], ("a", "b")),  # one is beside them
        (("train/a/1", "test/b/2", "owl/3"), "train", [3, 2, 1], ("owl", "test", "train")),
        (("train/a/1", "train/b/2"), "train", [1, 2], ("a", "b")),
        (("test/1", "test/2"), "train", [1, 2], ()),
        (("train/cat/1", "test/cat/2"), "train", [1], ("cat",)),
    ],
)
def test_folders_of_splits_are_no_classes(save, tmp_path, caplog, names, split, expected, classes):
    caplog.set_level("INFO")
    for name in names:
        save(f"{name}.png", grey(int(name[-1])))
    root = tmp_path / "images"
    for source, path in (("folder", root), ("zip", pack(root, tmp_path / "x.zip", "photos/"))):
        caplog.clear()
        data = open_with_log(source, path, split=split)
        assert (values(data.images), data.label_names) == (expected, classes)
        left_out = len(names) - len(expected)
        notes = [line for line in caplog.messages if "has the splits" in line]
        assert len(notes) == bool(left_out) == len(data.notes)
        assert set(data.notes) <= set(check_data(path, split=split).notes)
        again = open_images(source, path, split=split)  # from the cache
        assert again.notes == data.notes


def test_a_split_that_is_not_there(save):
    root = save("val/1.png", grey(1)).parents[1]
    save("test/1.png", grey(1))
    with pytest.raises(
        DataError, match=r"'train', but .* has test/ \(1 images\), val/ \(1 images\)"
    ):
        open_images("folder", root)
    (root / "test" / "1.png").unlink()
    with pytest.raises(DataError, match="source folder has no splits"):
        open_images("folder", root, split="test")


def test_a_label_file_above_the_splits_names_those_of_all(save):
    for name in ("train/1", "train/2", "test/3"):
        root = save(f"{name}.png", grey(int(name[-1]))).parents[1]
    (root / "labels.json").write_text('{"train/1.png": "a", "test/3.png": "b", "x.png": "a"}')
    data = open_images("folder", root)
    assert data.labels.tolist() == [[1, -1], [0, 0]]
    assert [line.split(":")[0] for line in data.skipped] == ["x.png"]


def test_one_folder_is_one_class(save, tmp_path):
    root = save("cat/1.png", grey(1)).parents[1]
    save("cat/2.png", grey(2))
    data = open_images("folder", root)
    assert (data.label_names, data.labels.tolist()) == (("cat",), [[1], [1]])
    assert "labels: true" not in check_data(root).recipe  # there is nothing to choose
    assert open_images("zip", pack(root, tmp_path / "x.zip")).label_names == ("cat",)
    assert open_images("zip", pack(root, tmp_path / "cat.zip")).labels is None  # it wraps
    save("3.png", grey(3))
    data = open_images("folder", root)
    assert (data.label_names, data.labels.tolist()) == (("cat",), [[0], [1], [1]])
    assert "labels: true" in check_data(root).recipe


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_what_may_never_end_is_not_read(folder, tmp_path):
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    data = open_images("folder", folder)
    assert values(data.images) == [10, 20, 30]
    reason = "it is not a regular file"
    assert data.skipped == (f"pipe.png: {reason}", f"zero.png: {reason}")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        make(folder / "labels.csv")
        with pytest.raises(DataError, match=rf"labels\.csv cannot be read: {reason}\. Check"):
            open_images("folder", folder)
        (folder / "labels.csv").unlink()
        for name, source in (("x.zip", "zip"), ("x.npz", "npz"), ("x-images-idx3-ubyte", "idx")):
            make(tmp_path / name)
            for use in (partial(open_images, source), detect_source):
                with pytest.raises(DataError, match=rf"{name} is neither a file nor a folder"):
                    use(tmp_path / name)
            (tmp_path / name).unlink()


def test_a_small_zip_that_unpacks_to_much(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "largest_image", lambda: 250_000)
    monkeypatch.setattr(base, "SMALL", 10_000)
    files = {"a.png": png(1), "bomb.png": bytes(1_000_001), "long.png": png(2) + bytes(900_000)}
    data = open_images("zip", write_zip(tmp_path / "x.zip", files))
    assert values(data.images) == [1, 2]
    assert data.skipped == ("bomb.png: it unpacks to 1,000,001 bytes",)
    for name in ("labels.json", "labels.csv", "dataset.json"):
        path = write_zip(tmp_path / f"{name}.zip", {"a.png": png(1), name: b"[" * 1_000_000})
        with pytest.raises(DataError, match=rf"{name} has more than 10,000 bytes, .* images"):
            open_images("zip", path)
        for nested in (b"[" * 9000, b'a,"' + b"x" * 9000):  # below the bound
            path = write_zip(tmp_path / f"{name}.zip", {"a.png": png(1), name: nested})
            with pytest.raises(DataError, match=rf"{name}.*\.$"):
                open_images("zip", path)


def test_a_large_file_that_is_no_image_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(base, "SMALL", 100)
    read, sizes = base.decode.read_picture, []
    monkeypatch.setattr(
        base.decode,
        "read_picture",
        lambda data, **how: (sizes.append(len(data)), read(data, **how))[1],
    )
    path = folder / "img1.png"
    path.write_bytes(path.read_bytes() + bytes(1000))  # still an image
    (folder / "large.png").write_bytes(bytes(1000))
    data = open_images("folder", folder, size=(4, 4), channels=1)
    assert (values(data.images), len(data.skipped)) == ([10, 20, 30], 1)
    assert sorted(sizes)[-1] == path.stat().st_size
    assert len(sizes) == 3


def test_a_damaged_member_of_a_zip_is_skipped(folder, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 255
    path.write_bytes(content)
    data = open_images("zip", path, channels=1, size=(4, 4))
    assert len(data) == 2
    assert "CRC" in data.skipped[0]


def test_a_file_that_is_no_zip(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no")
    with pytest.raises(DataError, match=r"x\.zip cannot be read as a zip archive"):
        open_images("zip", tmp_path / "x.zip")


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/none does not exist"):
        open_images("folder", tmp_path / "none")
    with pytest.raises(
        DataError, match=r"has no images, and no other files\. .* types: .png, .jpg"
    ):
        open_images("folder", tmp_path)
    for name in ("a.txt", "b.TXT", "c.svg", "d"):
        (tmp_path / name).touch()
    expected = r"has no images, only \.txt ×2, \.svg ×1, no extension ×1\. Use files of"
    with pytest.raises(DataError, match=expected):
        open_images("folder", tmp_path)
    with pytest.raises(DataError, match=r"a\.txt is a file\. Source folder needs a folder"):
        open_images("folder", tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"source folder needs a path"):
        open_images("folder")


def test_nothing_readable(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"")
    for options in ({}, {"size": (4, 4), "channels": 3}):
        with pytest.raises(
            DataError, match=r"none of the 5 images of .* can be read: 0.png: "
        ) as e:
            open_images("folder", tmp_path, **options)
        assert "and 2 more. Use files of these types: .png" in str(e.value)
        assert "\n" not in str(e.value)


def test_an_encrypted_zip_says_so(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.png", b"12345")
    content = bytearray(file.getvalue())
    content[6] |= 1  # the flag in the local header …
    content[content.index(b"PK\x01\x02") + 8] |= 1  # … and in the directory
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"encrypted, password required"):
        open_images("zip", tmp_path / "x.zip")


def test_missing_files_of_a_label_file_are_skipped_with_their_labels(folder, tmp_path):
    labels = {"x.png": "red", "img10.png": "red", "../out.png": "red", "img1.png": "blue"}
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "img1.png").write_bytes(b"")
    for source, path in (("folder", folder), ("zip", pack(folder, tmp_path / "x.zip"))):
        data = open_images(source, path)
        assert (values(data.images), data.label_names) == ([20, 30], ("blue", "red"))
        assert data.labels.tolist() == [[0, 0], [-1, 1]]
        where = f"named in labels.json, but not among the images of {path.name}"
        assert data.skipped == (
            "img1.png: the file is empty",
            f"x.png: {where}",
            f"../out.png: {where}",
        )
        with pytest.raises(DataError, match=r"3 of 5 images cannot be read: img1.png: the file"):
            open_images(source, path, strict=True)


def test_a_label_file_that_changes_is_seen(folder, tmp_path):
    """Also if its size stays the same, or if it is added or removed."""
    seen, then = [], 1_600_000_000_000_000_000  # ns
    for i, text in enumerate((None, '{"img1.png": "a"}', '{"img2.png": "a"}', None)):
        path = folder / "labels.json"
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text)
            os.utime(path, ns=(then, then + i))
        loose = open_images("folder", folder)
        packed = pack(folder, tmp_path / "x.zip")
        os.utime(packed, ns=(then, then + i))
        assert open_images("zip", packed).fingerprint == loose.fingerprint
        seen.append(None if loose.labels is None else loose.labels.tolist())
    assert seen == [None, [[1], [0], [0]], [[0], [1], [0]], None]


def test_a_label_file_is_no_image(folder):
    (folder / "dataset.json").write_text('{"labels": [["img1.png", 0]]}')
    data = open_images("folder", folder)
    assert (values(data.images), data.skipped) == ([10, 20, 30], ())
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"has no images, only \.json ×1"):
        open_images("folder", folder)
