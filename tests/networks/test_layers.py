import math

import pytest
import torch

from fromnoise.networks.base import check_cond, check_size
from fromnoise.networks.layers import FEW_TOKENS, Dropout, attend, sinusoid

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies


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
    with pytest.raises(ValueError, match=rf"{height}x{width} does not fit .* Use {near}\.$"):
        check_size(height, width, 8)


@given(height=st.integers(1, 9), width=st.integers(1, 9), multiple=st.sampled_from([1, 2, 4, 8]))
def test_multiples_are_accepted(height, width, multiple):
    check_size(height * multiple, width * multiple, multiple)


def test_a_condition_has_a_row_for_each_image_and_a_column_for_each_label():
    for cond in (None, torch.zeros(3, 4)):
        check_cond(cond, 3, 4)
    for shape in ((1, 4), (3, 5), (3,)):
        with pytest.raises(ValueError, match=r"one row for each image: \(3, 4\)\."):
            check_cond(torch.zeros(shape), 3, 4)
    with pytest.raises(ValueError, match="takes no condition"):
        check_cond(torch.zeros(3, 4), 3, 0)


def test_sizes_can_have_an_upper_end():
    check_size(192, 64, 32, 192)
    with pytest.raises(ValueError, match=r"multiples of 32 up to 192\. Use 192x64"):
        check_size(256, 64, 32, 192)


# ---- attention ----------------------------------------------------------------------------------


def plain_attention(q, k, v):
    weights = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[3] ** 0.5
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(weights, dim=3), v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "others"), [(5, 5), (7, 11), (3, FEW_TOKENS + 1)])
def test_attention_whichever_way_it_is_computed(dtype, tokens, others):
    torch.manual_seed(0)
    shapes = [(2, 3, n, 8) for n in (tokens, others, others)]
    given = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    known = [g.detach().double().requires_grad_() for g in given]
    out, expected = attend(*given), plain_attention(*known)
    assert out.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn_like(expected)
    (out * direction.to(dtype)).sum().backward()
    (expected * direction).sum().backward()
    for g, k in zip(given, known, strict=True):
        torch.testing.assert_close(g.grad.double(), k.grad, rtol=5 * tolerance, atol=5 * tolerance)


def test_scores_in_half_precision_move_each_weight_by_no_more_than_their_rounding():
    """A score s that is rounded to bf16 is off by up to |s|/2⁹, and a weight twice."""
    torch.manual_seed(0)
    q, k = (4 * torch.randn(2, 1, 3, 64, 64)).bfloat16()
    weights = attend(q, k, torch.eye(64).bfloat16().expand_as(q)).double()
    scores = q.double() @ k.double().mT / 8
    exact = scores.softmax(dim=3)
    largest = scores.abs().max().item()
    assert largest > 50  # e^50: one token takes it all
    off = math.exp(2 * largest / 2**9) * (1 + 2**-8) ** 2 - 1  # the weights are rounded too
    assert off < 1
    torch.testing.assert_close(weights, exact, rtol=off, atol=1e-30)


@pytest.mark.slow
def test_dropout_on_the_weights_keeps_the_mean_of_attention():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 4, 8)
    draws = torch.stack([attend(q, k, v, dropout=Dropout(0.3)) for _ in range(4000)])
    error = (draws.mean(0) - plain_attention(q, k, v)).abs() / (draws.std(0) / 4000**0.5)
    assert not torch.equal(draws[0], draws[1])
    assert error.max() < 5  # standard errors, of 32 numbers


# ---- dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_shares_mean_and_independence(p):
    torch.manual_seed(0)
    n = 1_000_003  # no multiple of four
    out = Dropout(p)(torch.ones(1, n, dtype=torch.float64))[0]
    kept = (out > 0).double()
    assert set(out.unique().tolist()) <= {0.0, out.max().item()}
    assert out.max().item() == pytest.approx(1 / (1 - p), rel=2e-4)
    error = (p * (1 - p) / n) ** 0.5
    assert abs(kept.mean().item() - (1 - p)) < 5 * error + 2**-17
    assert abs(out.mean().item() - 1) < 5 * error / (1 - p)
    for distance in (1, 2, 3, 4):  # also between the four that one draw serves
        together = ((kept[distance:] - 1 + p) * (kept[:-distance] - 1 + p)).mean().item()
        assert abs(together) < 5 * p * (1 - p) / n**0.5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_has_its_own_gradient_and_the_layout_of_what_it_is_given(layout, dtype):
    x = torch.rand(2, 8, 4, 4, dtype=dtype).add(1).to(memory_format=layout).requires_grad_()
    out = Dropout(0.5)(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    out.sum().backward()
    assert torch.equal(x.grad, (out > 0) * torch.tensor(2.0, dtype=dtype))


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9])
def test_dropout_at_the_ends(p):
    x = torch.ones(1, 1000)
    share = (Dropout(p)(x) > 0).float().mean().item()
    assert share == 1 if p < 0.5 else share < 0.01
