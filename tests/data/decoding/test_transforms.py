import numpy as np
import pytest

from fromnoise.data import DataError
from fromnoise.data.decoding.decode import Picture, fit_picture, to_channels

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

WHITE = (255, 255, 255)
FITS = ("crop", "pad", "squash")
SIDES = st.integers(1, 24)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from((1, 2, 3, 5)), st.sampled_from(FITS))
def test_any_shape_comes_to_any_size(h, w, out_h, out_w, channels, fit):
    for picture in (
        Picture(noise(h, w, channels)),
        Picture(noise(h, w, channels, dtype=np.uint16), peak=65535),
    ):
        out = fit_picture(picture, (out_h, out_w), fit=fit, background=WHITE)
        assert out.shape == (channels, out_h, out_w)
        assert out.dtype == np.uint8


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(FITS), st.integers(0, 255))
def test_a_flat_picture_stays_flat(h, w, out_h, out_w, fit, value):
    picture = Picture(np.full((h, w, 3), value, np.uint8))
    out = fit_picture(picture, (out_h, out_w), fit=fit, background=(value, value, value))
    assert (out == value).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_right_size_is_not_touched(fit, channels):
    pixels = noise(7, 9, channels)
    out = fit_picture(Picture(pixels), (7, 9), fit=fit, background=WHITE)
    np.testing.assert_array_equal(out, pixels.transpose(2, 0, 1))


def test_padding_28_to_32_adds_two_pixels_a_side_and_changes_none():
    pixels = noise(28, 28, 3)
    out = fit_picture(Picture(pixels), (32, 32), fit="pad", background=(1, 2, 3))
    np.testing.assert_array_equal(out[:, 2:-2, 2:-2], pixels.transpose(2, 0, 1))
    for c, value in enumerate((1, 2, 3)):
        frame = out[c].astype(int)
        frame[2:-2, 2:-2] = value
        assert (frame == value).all()


def test_padding_never_enlarges():
    out = fit_picture(Picture(np.zeros((2, 3, 1), np.uint8)), (9, 9), fit="pad", background=WHITE)
    assert (out == 0).sum() == 6


def test_padding_shrinks_with_its_aspect():
    out = fit_picture(Picture(np.zeros((40, 20, 1), np.uint8)), (8, 8), fit="pad", background=WHITE)
    np.testing.assert_array_equal(out[0, :, 2:6], 0)
    np.testing.assert_array_equal(out[0, :, [0, 1, 6, 7]], 255)


def test_grey_is_padded_with_the_luma_of_the_background():
    out = fit_picture(
        Picture(np.zeros((1, 1, 1), np.uint8)), (3, 3), fit="pad", background=(255, 0, 0)
    )
    assert out[0, 0, 0] == 76  # 0.299 · 255


def test_cropping_at_scale_one_takes_the_very_pixels():
    pixels = noise(8, 13, 3)
    out = fit_picture(Picture(pixels), (8, 8), fit="crop", background=WHITE)
    np.testing.assert_array_equal(out, pixels[:, 2:10].transpose(2, 0, 1))


def circle(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2
    return np.where(inside, 255, 0).astype(np.uint8)[..., None]


@pytest.mark.parametrize(("fit", "ratio"), [("crop", 1), ("pad", 1), ("squash", 2)])
@pytest.mark.parametrize("shape", [(80, 160), (160, 80)])
def test_a_circle_stays_a_circle_unless_squashed(fit, ratio, shape):
    picture = Picture(circle(*shape, radius=30))
    out = fit_picture(picture, (32, 32), fit=fit, background=(0, 0, 0))[0] / 255
    tall, wide = out.max(axis=1).sum(), out.max(axis=0).sum()
    expected = ratio if shape[0] < shape[1] else 1 / ratio
    assert tall / wide == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(out, out[::-1], atol=0.02)  # and in the middle
    np.testing.assert_allclose(out, out[:, ::-1], atol=0.02)


def test_shrinking_averages_instead_of_picking():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    out = fit_picture(Picture(stripes), (8, 8), fit="squash", background=WHITE)
    np.testing.assert_allclose(out, 127.5, atol=8)


def test_16_bits_survive_until_after_the_resize():
    # Three columns of 128.45 and one of 129: their mean is 128.59, but of the rounded 128.25.
    stripes = np.full((32, 32, 1), round(128.45 * 257), np.uint16)
    stripes[:, ::4] = 129 * 257
    out = fit_picture(Picture(stripes, peak=65535), (4, 4), fit="squash", background=WHITE)
    assert (out == 129).all()
    early = Picture(np.rint(stripes / 257).astype(np.uint8))
    assert (fit_picture(early, (4, 4), fit="squash", background=WHITE) == 128).all()


def test_few_levels_are_resized_between_the_levels():
    stripes = np.full((32, 32, 1), 7, np.uint8)
    stripes[:, ::2] = 8
    out = fit_picture(Picture(stripes, peak=16), (4, 4), fit="squash", background=WHITE)
    np.testing.assert_allclose(out, 7.5 * 255 / 16, atol=2)


def test_overshoot_at_an_edge_is_clipped():
    edge = np.zeros((48, 48, 1), np.uint16)
    edge[:, 24:] = 65535
    out = fit_picture(Picture(edge, peak=65535), (20, 20), fit="squash", background=WHITE)[0]
    assert (out[:, :9] < 64).all()
    assert (out[:, 11:] > 192).all()


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (65535, 255)])
def test_16_bits_are_divided_by_257_and_rounded(value, expected):
    picture = Picture(np.full((2, 2, 1), value, np.uint16), peak=65535)
    assert (fit_picture(picture, (2, 2), fit="crop", background=WHITE) == expected).all()


def test_colour_to_grey_is_luma_at_any_depth():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert to_channels(Picture(red), 1).pixels.item() == 76
    deep = Picture(red.astype(np.uint16) * 257, peak=65535)
    assert fit_picture(to_channels(deep, 1), (1, 1), fit="crop", background=WHITE).item() == 76


def test_grey_to_colour_is_repeated():
    grey = noise(3, 4, 1)
    np.testing.assert_array_equal(to_channels(Picture(grey), 3).pixels, np.repeat(grey, 3, axis=2))


def test_other_channels_are_refused():
    with pytest.raises(DataError, match=r"data.channels is 3, but the images have 4\. Set it to 4"):
        to_channels(Picture(noise(2, 2, 4)), 3)
    with pytest.raises(DataError, match=r"have 3\. Set it to 3 or 1 \(luma\)"):
        to_channels(Picture(noise(2, 2, 3)), 5)
