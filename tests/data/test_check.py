import os
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from fromnoise.data import DataError, check_data, open_images
from fromnoise.data.check import suggest_size, suggest_white
from fromnoise.data.dataset import open_with_log
from fromnoise.data.decoding import decode


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def messy(save):
    turned = Image.fromarray(noise(40, 50, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    save("cat/1.png", noise(40, 60, 3))
    save("cat/2.png", noise(40, 60, 3))  # the same pixels
    save("cat/3.bmp", noise(40, 60, 3))  # again, in another format
    save("dog/10.png", noise(70, 70, 4))
    save("dog/9.png", noise(80, 80).astype(np.uint16) * 257)
    save("dog/turned.jpg", turned, exif=exif)
    path = save("loose.png", noise(100, 90, 3, seed=1))
    (path.parent / "dog" / "bad.png").write_bytes(b"")
    return path.parent


def test_the_report_counts_what_is_there(messy):
    report = check_data(messy)
    assert (report.source, report.count, report.channels) == ("folder", 7, 3)
    assert next(iter(report.sizes.items())) == ((40, 60), 3)
    assert report.sizes[50, 40] == 1  # after its rotation
    assert report.modes == {"RGB": 5, "I;16": 1, "RGBA": 1}
    assert report.classes == {"cat": 3, "dog": 3}
    assert list(report.classes) == ["cat", "dog"]
    assert report.unlabelled == 1
    assert report.duplicates == (("cat/1.png", "cat/2.png"), ("cat/1.png", "cat/3.bmp"))
    assert report.broken == ("dog/bad.png: the file is empty",)
    assert len(report.notes) == 3


def test_the_report_reads_well(messy):
    text = str(check_data(messy))
    for line in (
        f"{messy}: 7 images (source folder)",
        "sizes:     40×60 ×3, ",
        "H 40 to 100, W 40 to 90",
        "channels:  3",
        "labels:    2, from sub-folders",
        "  cat: 3",
        "no labels: 1 images",
        "  cat/2.png = cat/1.png",
        "  dog/bad.png: ",
        "1 of 7 images are rotated by EXIF. The rotation is applied.",
        "1 of 7 images are transparent. data.background shows through.",
        "1 of 7 images have more than 8 bits. They are rounded, or data.depth keeps them.",
    ):
        assert line in text


def test_the_recipe_lines_are_yaml_that_fits(messy):
    recipe = yaml.safe_load(check_data(messy).recipe)
    assert recipe == {
        "data": {
            "source": "folder",
            "path": str(messy),
            "size": 32,
            "channels": 3,
            "fit": "crop",
            "labels": True,
        }
    }


def test_labels_are_suggested_where_there_are_any(save):
    root = save("x.png", noise(8, 8)).parent
    assert "labels" not in yaml.safe_load(check_data(root).recipe)["data"]
    (root / "labels.csv").write_text("file,red,blue\nx.png,1,\ny.png,0,1\n")
    report = check_data(root)
    assert report.recipe.splitlines()[-1] == "  labels: true"
    assert report.classes == {"red": 1, "blue": 0}
    assert "labels:    2, from labels.csv" in str(report).splitlines()
    assert report.broken == ("y.png: named in labels.csv, but not among the images of images",)


def test_a_path_that_yaml_would_misread_is_quoted(save):
    path = save("a: #b/x.png", noise(8, 8)).parent
    assert yaml.safe_load(check_data(path).recipe)["data"]["path"] == str(path)


def test_colour_files_that_are_grey_are_noted(save):
    for i in range(2):
        root = save(f"{i}.png", np.repeat(noise(8, 8, 1, seed=i), 3, axis=2)).parent
    report = check_data(root)
    assert "every colour image is grey. Use channels: 1." in report.notes
    assert yaml.safe_load(report.recipe)["data"]["channels"] == 1
    save("colour.png", noise(8, 8, 3))
    assert check_data(root).notes == ()


@pytest.mark.parametrize(("value", "background"), [(0, [0, 0, 0]), (255, [255, 255, 255])])
def test_small_images_are_padded_on_their_own_background(save, value, background):
    pixels = np.full((28, 28), value, np.uint8)
    pixels[8:20, 8:20] = 128
    data = yaml.safe_load(check_data(save("x.png", pixels).parent).recipe)["data"]
    assert (data["size"], data["fit"], data["background"]) == (32, "pad", background)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({(32, 32): 9}, ((32, 32), "crop")),
        ({(28, 28): 9}, ((32, 32), "pad")),
        ({(64, 96): 9}, ((64, 96), "crop")),
        ({(8, 8): 9}, ((8, 8), "crop")),
        ({(1024, 768): 9}, ((256, 256), "crop")),
        ({(50, 70): 2, (60, 200): 1, (300, 65): 9}, ((64, 64), "crop")),
        ({(5, 3): 2, (4, 4): 1}, ((8, 8), "crop")),
    ],
)
def test_suggested_sizes(sizes, expected):
    assert suggest_size(sizes) == expected


def test_the_shipped_digits():
    report = check_data(source="digits")
    assert (report.count, report.channels, report.duplicates) == (1797, 1, ())
    assert list(report.classes.values())[:3] == [178, 182, 177]
    assert yaml.safe_load(report.recipe)["data"] == {
        "source": "digits",
        "size": 8,
        "channels": 1,
        "fit": "crop",
        "labels": True,
    }


def test_long_lists_are_cut(save):
    for i in range(30):
        root = save(f"{i}.png", np.zeros((8, 8), np.uint8)).parent
    report = check_data(root)
    assert len(report.duplicates) == 29
    assert "  … and 19 more" in str(report).splitlines()
    assert len(str(report).splitlines()) < 30


def test_only_broken_files_are_a_report_without_a_recipe(tmp_path):
    (tmp_path / "x.png").write_bytes(b"?")
    report = check_data(tmp_path)
    assert (report.count, report.recipe) == (0, "")
    assert "x.png: not an image that Pillow can read" in str(report)


def test_nothing_to_check(tmp_path):
    with pytest.raises(DataError, match=r"has no images, and no other files"):
        check_data(tmp_path)
    with pytest.raises(DataError, match=r"data.path is missing"):
        check_data()


def test_files_of_other_types_are_counted(save, caplog):
    caplog.set_level("INFO")
    root = save("x.png", noise(8, 8)).parent
    assert check_data(root).notes == ()
    for name in ("a.txt", "b.TXT", "c.svg", "README", ".hidden", "deep/d.dds"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("?")
    line = "skipped 5 files of other types: .txt ×2, no extension ×1, .svg ×1, .dds ×1."
    assert check_data(root).notes == (line,)
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        open_with_log("folder", root, size=(8, 8))
        assert any("skipped 5 files of" in message for message in caplog.messages)
    archive = shutil.make_archive(str(root), "zip", root)
    assert check_data(archive).notes[0].startswith("skipped 5 files of other types: .txt ×2, ")


def test_every_usual_extension_of_a_type_is_read(save):
    for name in ("a.jfif", "b.jpe", "c.avif", "d.ppm", "e.pgm", "f.jp2", "g.tga", "h.ico"):
        options = {"format": "JPEG"} if name in ("a.jfif", "b.jpe") else {}
        root = save(name, noise(16, 16, *[3] * (name != "e.pgm")), **options).parent
    save("i.pbm", Image.new("1", (16, 16)))
    report = check_data(root)
    assert (report.count, report.notes, report.broken) == (9, (), ())


def test_heic_without_its_extra_is_one_line(monkeypatch):
    monkeypatch.setattr(decode, "_EXTRA", "For .heic run pip install -e '.[heic]'.")
    assert decode.left_out(["1.heic", "2.HEIC"]) == (
        "skipped 2 files of other types: .heic ×2. For .heic run pip install -e '.[heic]'.",
    )


def test_few_bits_in_files_of_16_are_said(save):
    for i in range(2):
        root = save(f"{i}.png", noise(8, 8, seed=i).astype(np.uint16) * 16).parent
    report = check_data(root)
    (note,) = (note for note in report.notes if "16-bit" in note)
    assert "no value of the 16-bit images is above 4,095, so they look nearly black." in note
    assert "Set data.white=4095" in note
    data = yaml.safe_load(report.recipe)["data"]
    assert data["white"] == 4095
    plain = open_images("folder", root, size=(8, 8))
    white = open_images("folder", root, size=(8, 8), white=data["white"])
    assert plain.images.max() < 17
    expected = (noise(8, 8).astype(float) * 16 * 255 / 4095).round()
    np.testing.assert_array_equal(white.images[0, 0], expected)
    save("2.png", np.full((8, 8), 5000, np.uint16))
    assert yaml.safe_load(check_data(root).recipe)["data"]["white"] == 8191
    assert open_images("folder", root, size=(8, 8), white=4095).skipped == (
        "2.png: its largest value is 5000, above data.white = 4095",
    )
    save("3.png", np.full((8, 8), 50000, np.uint16))
    assert "white" not in yaml.safe_load(check_data(root).recipe)["data"]


@pytest.mark.parametrize(
    ("highest", "white"),
    [([], None), ([0], None), ([900, 1023], 1023), ([200], 255), ([16383], 16383), ([16384], None)],
)
def test_suggested_white(highest, white):
    assert suggest_white(highest) == white


def test_the_white_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", noise(3, 8, 8).astype(np.uint16) * 16)
    assert yaml.safe_load(check_data(tmp_path / "x.npy").recipe)["data"]["white"] == 4095
    assert open_images("npz", tmp_path / "x.npy", white=4095).images.max() > 240


def test_warnings_and_frames_are_in_the_report(save):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    save("a.gif", frames[0], save_all=True, append_images=frames[1:])
    root = save("b.png", noise(8, 8, 3), icc_profile=b"nonsense").parent
    report = check_data(root)
    assert "1 of 2 images: frames after the first are not used." in report.notes
    (line,) = report.warned
    assert line.startswith("b.png: its ICC profile is not applied: ")
    assert f"read with warnings: 1\n  {line}\n" in str(report)


def test_pipes_and_devices_are_broken(save):
    root = save("x.png", noise(8, 8)).parent
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    report = check_data(root)
    assert report.broken == (
        "pipe.png: it is not a regular file",
        "zero.png: it is not a regular file",
    )
