import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fromnoise import curves, pictures
from fromnoise.checkpoints import DiskFull
from fromnoise.config.schema import Diffusion
from fromnoise.curves import loss_figure

RED = np.array([255, 0, 0], dtype=np.uint8)


def random_images(n: int, c: int = 1, h: int = 8, w: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, c, h, w), dtype=np.uint8)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize(("channels", "saved_channels"), [(1, 1), (2, 1), (3, 3), (5, 3)])
def test_saved_pngs_hold_the_exact_pixels_and_texts(tmp_path, channels, saved_channels):
    images = random_images(2, channels, 5, 7)
    texts = [{"seed": "0", "model": "digits"}, {"seed": "1", "labels": "rosé, σ"}]
    paths = pictures.save_pngs(images, tmp_path / "new", ["a", "b"], texts)
    assert [path.name for path in paths] == ["a.png", "b.png"]
    for image, path, text in zip(images, paths, texts, strict=True):
        saved = pixels(path).reshape(5, 7, saved_channels).transpose(2, 0, 1)
        np.testing.assert_array_equal(saved, image[:saved_channels])
        with Image.open(path) as picture:
            picture.load()
            assert picture.info == text


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", lambda images, path: pictures.save_pngs(images, path.parent, ["a"], [{}])),
        ("grid.png", lambda images, path: pictures.grid_figure(images, path, title="T")),
        ("a.gif", lambda images, path: pictures.save_gif(images, path)),
        ("samples_1x8x8x1.npz", lambda images, path: pictures.save_npz(images, path.parent)),
        ("loss.png", lambda _, path: loss_figure([], path, title="T", loss_name="loss")),
    ],
)
def test_a_picture_on_a_full_disk_is_named_and_nothing_is_left(tmp_path, monkeypatch, name, write):
    (tmp_path / name).write_text("before")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DiskFull, match=f"{name} was not written. Existing files are unchanged"):
        write(random_images(1), tmp_path / name)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "before")]


def test_tile_enlarges_by_an_integer_factor_with_white_gaps():
    images = random_images(5)
    grid = pictures.mosaic(images.repeat(6, axis=2).repeat(6, axis=3), 3, 4, 4)
    assert pictures.tile(images[:1]).shape == (1, 48, 48)
    assert grid.shape == (1, 2 * 52 - 4, 3 * 52 - 4)
    np.testing.assert_array_equal(grid[:, 52:100:6, 52:100:6], images[4])  # second row, second
    assert (grid[:, 48:52] == 255).all()
    assert (grid[:, 52:, 104:] == 255).all()  # the empty cell


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 3, 32, 32), (3, 4 * 66 - 2, 4 * 66 - 2)),
        ((3, 1, 100, 100), (1, 2 * 102 - 2, 2 * 102 - 2)),
        ((4, 4, 64, 256), (3, 4 * 66 - 2, 256)),  # wide images in one column
        ((1, 3, 28, 28), (3, 56, 56)),
    ],
)
def test_tile_is_about_square(shape, expected):
    assert pictures.tile(random_images(*shape)).shape == expected


def test_tile_refuses_invalid_images():
    with pytest.raises(ValueError, match=r"the images are float64\. Give uint8\."):
        pictures.tile(random_images(2) / 255)


def test_a_gif_has_every_frame_and_holds_the_last(tmp_path):
    frames = list(random_images(4))
    path = pictures.save_gif(frames, tmp_path / "a.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 4
        for number, frame in enumerate(frames):
            gif.seek(number)
            assert gif.info["duration"] == (2000 if number == 3 else 80)
            np.testing.assert_array_equal(np.array(gif.convert("L")), frame[0])


def test_a_gif_keeps_colours(tmp_path):
    frames = [np.broadcast_to(colour[:, None, None], (3, 8, 8)) for colour in (RED, RED[::-1])]
    with Image.open(pictures.save_gif(frames, tmp_path / "a.gif")) as gif:
        assert gif.convert("RGB").getpixel((4, 4)) == (255, 0, 0)
        gif.seek(1)
        assert gif.convert("RGB").getpixel((4, 4)) == (0, 0, 255)


def holds(picture: np.ndarray, part: np.ndarray) -> bool:
    """Return whether part (C, h, w) occurs in picture (H, W, RGBA) exactly."""
    part = np.broadcast_to(part.transpose(1, 2, 0), (*part.shape[1:], 3))
    h, w = part.shape[:2]
    corners = np.argwhere((picture[:, :, :3] == part[0, 0]).all(axis=-1))
    return any(np.array_equal(picture[y : y + h, x : x + w, :3], part) for y, x in corners)


@pytest.mark.parametrize("channels", [1, 3])
def test_figures_show_every_pixel_unblurred(tmp_path, channels):
    images = random_images(6, channels, 64, 64)  # of this size nothing is enlarged
    title = "a title that is wider than what it stands above"
    paths = [
        pictures.grid_figure(images, tmp_path / "grid.png", title=title),
        pictures.grid_figure(images, tmp_path / "captions.png", title=title, captions=["cube"] * 6),
        pictures.grids_side_by_side(
            [("EMA", images[:3]), ("raw", images[3:])], tmp_path / "side.png", title=title
        ),
        pictures.strip_figure(
            [("$x_t$", images[:3]), ("predicted $x_0$", images[3:])],
            [1000, 500, 1],
            tmp_path / "strip.png",
            title=title,
        ),
    ]
    for path in paths:
        picture = pixels(path)
        assert all(holds(picture, image) for image in images), path.name


def test_a_text_from_elsewhere_is_no_mathematics():
    for text in ("$x^$", "$a$", "5 $ and 6 $", "$", r"\$x^$"):
        width = pictures._text_width(pictures.literal(text), 9)
        assert width == pytest.approx(pictures._text_width(text.replace("$", "S"), 9), rel=0.1)


def test_a_wrong_number_of_labels_is_an_error(tmp_path):
    images = random_images(3)
    with pytest.raises(ValueError, match="shorter"):
        pictures.grid_figure(images, tmp_path / "a.png", title="", captions=["a", "b"])
    with pytest.raises(ValueError, match="shorter"):
        pictures.save_pngs(images, tmp_path, ["a"], [{}] * 3)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "loss": 1.0}],
        [{"step": 9, "preview": "a.png"}, {"step": 10, "loss": float("nan"), "loss_q1": None}],
        [{"step": s, "loss": 1 / s, **{f"loss_q{q}": q / s for q in (1, 2, 3, 4)}} for s in (1, 2)],
    ],
)
def test_a_loss_figure_is_drawn_from_any_log(tmp_path, rows):
    assert pixels(loss_figure(rows, tmp_path / "loss.png", title="loss")).std() > 0


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"loss": "huber", "weighting": "min_snr"}, "loss: huber × min_snr"),
        ({"vlb_weight": 0.001}, "loss: mse × simple + 0.001 × vlb"),
        ({"loss": "vlb"}, "loss: vlb"),
        (None, "loss"),
    ],
)
def test_a_loss_figure_names_the_loss(tmp_path, monkeypatch, changes, label):
    labels = []
    monkeypatch.setattr(
        curves, "save_png", lambda axes, path, title, y_label: labels.append(y_label)
    )
    loss_name = "" if changes is None else Diffusion.model_validate(changes).loss_in_words
    loss_figure([], tmp_path / "loss.png", title="loss", loss_name=loss_name)
    assert labels == [label]


def test_smoothing_keeps_constants_and_power_laws():
    steps = np.arange(1, 2001, dtype=float)
    np.testing.assert_allclose(curves.smooth(steps, np.full(2000, 0.3)), 0.3)
    inner = slice(100, 1500)
    np.testing.assert_allclose(curves.smooth(steps, 1 / steps)[inner], 1 / steps[inner], rtol=0.02)


def test_matplotlib_is_imported_lazily():
    code = "import sys, fromnoise.pictures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
