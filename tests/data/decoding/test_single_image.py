"""Image files and masks are read at a model's size, or refused in one line."""

import os

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import DataError, image_files, read_image, read_mask


def saved(path, pixels, mode=None):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.fixture
def image(tmp_path):
    """A picture of 12×16 in colour."""
    return saved(tmp_path / "image.png", np.full((12, 16, 3), 90, np.uint8))


@pytest.fixture
def left():
    """Grey levels of a mask: white in the left quarter."""
    grey = np.zeros((12, 16), np.uint8)
    grey[:, :4] = 255
    return grey


def test_images_come_by_name_and_in_the_order_of_their_numbers(tmp_path):
    for name in ("img10.png", "img2.PNG", ".hidden.png"):
        saved(tmp_path / name, np.zeros((2, 2), np.uint8))
    (tmp_path / "notes.txt").write_text("none")
    assert list(image_files(tmp_path)) == ["img2", "img10"]
    assert image_files(tmp_path / "img10.png") == {"img10": tmp_path / "img10.png"}
    saved(tmp_path / "img2.bmp", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"img2\.\w+ and img2\.\w+\. Their results would have"):
        image_files(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no images\. Use files of these types: \.png"):
        image_files(tmp_path / "empty")
    with pytest.raises(DataError, match=r"gone does not exist\. Give an image or a folder"):
        image_files(tmp_path / "gone")


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16"])
def test_a_mask_may_be_of_any_mode(tmp_path, image, left, mode):
    if mode == "I;16":
        mask = saved(tmp_path / "mask.png", left.astype(np.uint16) * 257)
    else:
        mask = saved(tmp_path / "mask.png", left, mode)
    read = read_mask(mask, image=image, size=(12, 16))
    assert (read.shape, read.dtype) == ((12, 16), bool)
    np.testing.assert_array_equal(read, left > 0)


def test_what_is_transparent_in_a_mask_stays(tmp_path, image, left):
    white = np.full((12, 16), 255, np.uint8)
    mask = saved(tmp_path / "mask.png", np.stack([white, white, white, left], axis=-1))
    np.testing.assert_array_equal(read_mask(mask, image=image, size=(12, 16)), left > 0)


def test_grey_is_white_from_128_on(tmp_path, image):
    grey = np.repeat(np.arange(120, 136, dtype=np.uint8)[None], 12, axis=0)
    read = read_mask(saved(tmp_path / "m.png", grey), image=image, size=(12, 16))
    np.testing.assert_array_equal(read, grey >= 128)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_mask_comes_to_the_size_in_the_way_of_its_image(tmp_path, left, fit):
    """The image is white where the mask is: so must be the image that the model sees."""
    left[:, :8] = 255
    image = saved(tmp_path / "image.png", left)
    mask = saved(tmp_path / "mask.png", left)
    for size in [(12, 16), (24, 32), (6, 6), (6, 16), (20, 10)]:
        seen = read_image(image, size=size, channels=1, fit=fit, background=(0, 0, 0))[0]
        read = read_mask(mask, image=image, size=size, fit=fit)
        sure = (seen < 20) | (seen > 235)  # not the columns that Lanczos blends
        assert sure.mean() > 0.5
        np.testing.assert_array_equal(read[sure], seen[sure] > 128)


def test_a_mask_that_does_not_fit_its_image_is_refused(tmp_path, image, left):
    other = saved(tmp_path / "other.png", left[:, :8])
    with pytest.raises(DataError, match=r"other.png is 12x8 \(HxW\), but the image .* is 12x16"):
        read_mask(other, image=image, size=(12, 16))
    black = saved(tmp_path / "black.png", np.full((12, 16), 127, np.uint8))
    with pytest.raises(DataError, match=r"black.png has no white pixel, so nothing would change"):
        read_mask(black, image=image, size=(12, 16))
    thin = np.zeros((12, 16), np.uint8)
    thin[:, 0] = 255
    with pytest.raises(DataError, match=r"no white pixel left at the model's size 4x4 \(crop\)"):
        read_mask(saved(tmp_path / "thin.png", thin), image=image, size=(4, 4))


def test_images_of_other_channels_are_refused(image):
    with pytest.raises(DataError, match=r"image.png has 3 channels, .* have 5\. Use a model of 1"):
        read_image(image, size=(8, 8), channels=5)


def test_a_picture_with_a_hole_is_no_mask(tmp_path, image, left):
    """Elsewhere such a picture means that its hole is regenerated."""
    photo = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    mask = saved(tmp_path / "hole.png", np.dstack([photo, 255 - left]))
    with pytest.raises(DataError, match=r"hole.png has transparent pixels, and \d+% of the others"):
        read_mask(mask, image=image, size=(12, 16))
    opaque = saved(tmp_path / "opaque.png", np.dstack([photo, np.full_like(left, 255)]))
    assert read_mask(opaque, image=image, size=(12, 16)).any()
    black = saved(tmp_path / "black.png", np.dstack([photo * 0, 255 - left]))
    with pytest.raises(DataError, match=r"no white pixel"):
        read_mask(black, image=image, size=(12, 16))


def test_a_soft_brush_on_transparency_is_a_mask(tmp_path, image):
    soft = np.repeat(np.arange(0, 256, 17, dtype=np.uint8)[None], 12, axis=0)
    white = np.full_like(soft, 255)
    mask = saved(tmp_path / "soft.png", np.stack([white, white, white, soft], axis=-1))
    np.testing.assert_array_equal(read_mask(mask, image=image, size=(12, 16)), soft >= 128)


def test_what_is_no_regular_file_is_refused(tmp_path, image):
    os.mkfifo(tmp_path / "pipe.png")
    assert list(image_files(tmp_path / "pipe.png")) == ["pipe"]
    assert list(image_files(tmp_path)) == ["image", "pipe"]
    with pytest.raises(DataError, match=r"pipe.png is not a file"):
        read_image(tmp_path / "pipe.png", size=(8, 8), channels=3)


def test_the_white_of_16_bits(tmp_path):
    path = saved(tmp_path / "x.png", np.full((8, 8), 4095, np.uint16))
    assert (read_image(path, size=(8, 8), channels=1, white=4095) == 255).all()
    with pytest.raises(DataError, match=r"largest value is 4095, above data.white = 1023"):
        read_image(path, size=(8, 8), channels=1, white=1023)


def test_files_of_other_types_are_said(tmp_path, image, caplog):
    caplog.set_level("INFO")
    (tmp_path / "notes.txt").write_text("none")
    image_files(tmp_path)
    assert f"{tmp_path}: skipped 1 file of other types: .txt ×1." in caplog.messages
