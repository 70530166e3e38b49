import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.networks.layers import add_cond, check_size, sinusoid


@given(half=st.integers(2, 64), t=st.integers(0, 999))
def test_halves_are_all_sines_then_all_cosines(half, t):
    angles = [t * 10000 ** (-i / (half - 1)) for i in range(half)]
    expected = [*map(math.sin, angles), *map(math.cos, angles)]
    _assert_close(sinusoid(torch.tensor([t]), 2 * half, "halves"), expected, t)


@given(half=st.integers(2, 64), t=st.integers(0, 999))
def test_interleaved_are_sine_and_cosine_in_turn(half, t):
    angles = [t * 10000 ** (-2 * i / (2 * half)) for i in range(half)]
    expected = [f(angle) for angle in angles for f in (math.sin, math.cos)]
    _assert_close(sinusoid(torch.tensor([t]), 2 * half, "interleaved"), expected, t)


def _assert_close(features, expected, t):
    assert features.dtype == torch.float32
    # The angle is a float32 up to t, off by a few of its roundings.
    atol = (1 + t) * 3e-7
    torch.testing.assert_close(features, torch.tensor([expected]), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("height", "width", "near"),
    [
        (30, 30, "24x24 or 32x32"),
        (30, 32, "24x32 or 32x32"),
        (33, 47, "32x40 or 40x48"),
        (7, 7, "8x8"),
        (0, 8, "8x8"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_do(height, width, near):
    with pytest.raises(ValueError, match=rf"{height}x{width} does not fit .* nearest: {near}$"):
        check_size(height, width, 8)


@given(height=st.integers(1, 9), width=st.integers(1, 9), multiple=st.sampled_from([1, 2, 4, 8]))
def test_multiples_are_accepted(height, width, multiple):
    check_size(height * multiple, width * multiple, multiple)


def test_a_condition_has_a_row_for_each_image_and_a_column_for_each_label():
    time, layer = torch.zeros(3, 5), torch.nn.Linear(4, 5, bias=False)
    assert add_cond(time, layer, None) is time
    torch.testing.assert_close(add_cond(time, layer, torch.zeros(3, 4)), time)
    torch.testing.assert_close(add_cond(time, layer, torch.eye(4)[:3]), layer.weight.T[:3])
    for shape in ((1, 4), (3, 5), (3,)):
        with pytest.raises(ValueError, match=r"of shape \(3, 4\), one row for each image, not"):
            add_cond(time, layer, torch.zeros(shape))
    with pytest.raises(ValueError, match="takes no condition"):
        add_cond(time, None, torch.zeros(3, 4))


def test_sizes_can_have_an_upper_end():
    check_size(192, 64, 32, 192)
    with pytest.raises(ValueError, match="multiples of 32 up to 192; nearest: 192x64"):
        check_size(256, 64, 32, 192)
