"""Interpolation: exact at both ends, of the right variance between them."""

import math

import pytest
import torch
from torch import Tensor

from fromnoise.diffusion import (
    NoiseSchedule,
    Prediction,
    ddim,
    ddpm,
    interpolation_starts,
    sampling_timesteps,
    slerp,
)

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

SHAPE = (2, 4, 4)
FRACTIONS = (0.0, 0.25, 0.5, 1.0)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Two images and one noise."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64) * 2 - 1
    return a, b, torch.randn(SHAPE, generator=generator, dtype=torch.float64)


class Narrow:
    """The exact denoiser of x_0 ~ N(m, c)."""

    def __init__(self, schedule: NoiseSchedule, mean: Tensor, c: float) -> None:
        self.schedule, self.mean, self.c = schedule, mean, c

    def __call__(self, x_t: Tensor, t: int) -> Prediction:
        a = self.schedule.alpha_bar[t]
        gain = a.sqrt() * self.c / (a * self.c + 1 - a)
        x0 = self.mean + gain * (x_t - a.sqrt() * self.mean)
        return Prediction("x0", x0, x_t, a.sqrt(), (1 - a).sqrt())


def sampled(schedule, denoise, starts, t, sampler=ddim, noise=None, steps=1000):
    times = [t, *(u for u in sampling_timesteps(schedule, steps) if u < t)]
    *_, last = sampler(denoise, schedule, starts, times, noise=noise)
    return last.x


@pytest.mark.parametrize("t", [1, 400, 1000])
def test_the_ends_are_the_noised_images(schedule, pair, t):
    a, b, eps = pair
    starts = interpolation_starts(schedule, a, b, FRACTIONS, t, eps)
    assert starts.shape == (4, *SHAPE)
    assert torch.equal(starts[0], schedule.add_noise(a, eps, t))
    assert torch.equal(starts[-1], schedule.add_noise(b, eps, t))


@pytest.mark.parametrize("t", [1, 400, 1000])
def test_between_them_lies_the_mixed_image_under_all_of_the_noise(schedule, pair, t):
    a, b, eps = pair
    starts = interpolation_starts(schedule, a, b, FRACTIONS, t, eps)
    for start, fraction in zip(starts, FRACTIONS, strict=True):
        mixed = (1 - fraction) * a + fraction * b
        torch.testing.assert_close(start, schedule.add_noise(mixed, eps, t), rtol=0, atol=1e-12)


def test_the_noise_has_the_variance_that_the_denoiser_expects(schedule):
    eps = torch.randn(1, 300, 300, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros_like(eps)
    for start in interpolation_starts(schedule, nothing, nothing, FRACTIONS, 700, eps):
        assert start.var().item() == pytest.approx(1 - schedule.alpha_bar[700].item(), rel=0.02)


def test_from_little_noise_the_images_come_back(schedule, pair):
    a, b, eps = pair
    denoise = Narrow(schedule, torch.zeros_like(a), c=0.35)
    for t in (1, 20):
        starts = interpolation_starts(schedule, a, b, [0, 1], t, eps)
        ends = sampled(schedule, denoise, starts, t)
        for end, image in zip(ends, (a, b), strict=True):
            assert (end - image).abs().max() < 4 * schedule.sigma(t)


def test_from_all_the_noise_the_images_are_those_of_the_model(schedule, pair, fixed_noise):
    # Data that are one picture: whatever is put in comes out as that picture.
    a, b, eps = pair
    picture = torch.linspace(-1, 1, a.numel(), dtype=torch.float64).reshape(SHAPE)
    denoise = Narrow(schedule, picture, c=0.0)
    starts = interpolation_starts(schedule, a, b, FRACTIONS, 1000, eps)
    for sampler in (ddim, ddpm):
        made = sampled(schedule, denoise, starts, 1000, sampler, fixed_noise(4, *SHAPE), 20)
        torch.testing.assert_close(made, picture.expand_as(made), rtol=0, atol=1e-9)


def test_an_affine_denoiser_makes_the_mixture_of_the_ends(schedule, pair):
    a, b, eps = pair
    denoise = Narrow(schedule, b.flip(0), c=0.2)
    starts = interpolation_starts(schedule, a, b, FRACTIONS, 600, eps)
    first, quarter, half, last = sampled(schedule, denoise, starts, 600, steps=53)
    torch.testing.assert_close(quarter, 0.75 * first + 0.25 * last, rtol=0, atol=1e-12)
    torch.testing.assert_close(half, (first + last) / 2, rtol=0, atol=1e-12)
    assert not torch.allclose(first, last, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(1, 4, 4)}, r"one shape, not \(2, 4, 4\), \(1, 4, 4\) and \(2, 4, 4\)"),
        ({"eps": torch.zeros(4, 4)}, r"one shape, not .* and \(4, 4\)"),
        (
            {"fractions": [0.5, 1.2]},
            r"fractions must lie between 0 \(the first image\) and 1, not 1.2",
        ),
        ({"fractions": [-0.1]}, r"fractions must lie .*, not -0\.1"),
        ({"t": 0}, r"t must lie in 1\.\.1000, not 0$"),
        ({"t": 1001}, r"t must lie in 0\.\.1000, not 1001"),
    ],
)
def test_what_cannot_be_mixed_is_refused(schedule, pair, change, message):
    a, b, eps = pair
    arguments = {"a": a, "b": b, "fractions": FRACTIONS, "t": 400, "eps": eps, **change}
    with pytest.raises(ValueError, match=message):
        interpolation_starts(schedule, **arguments)


# ---- on the sphere ------------------------------------------------------------------------------


def as_images(*vectors):
    return torch.tensor(vectors, dtype=torch.float64).reshape(len(vectors), 1, 1, -1)


@given(st.floats(0, 1), st.floats(0, 3.1), st.floats(0.1, 9))
def test_in_the_plane_slerp_turns_by_a_share_of_the_angle(fraction, angle, length):
    a = as_images([length, 0.0])
    b = as_images([length * math.cos(angle), length * math.sin(angle)])
    at = as_images([length * math.cos(fraction * angle), length * math.sin(fraction * angle)])
    torch.testing.assert_close(slerp(a, b, fraction), at, rtol=0, atol=1e-9)


def test_slerp_is_exact_at_both_ends_and_straight_between_parallel_images(pair):
    a, b, eps = (x[None] for x in pair)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    torch.testing.assert_close(slerp(a, a, 0.3), a, rtol=0, atol=1e-15)
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    nearly = a + 1e-9 * eps  # an angle of which the arc cosine would make 0 / 0
    torch.testing.assert_close(slerp(a, nearly, 0.5), (a + nearly) / 2, rtol=0, atol=1e-15)


def test_slerp_takes_the_angle_of_each_image_alone():
    a, b = as_images([1.0, 0, 0], [1.0, 0, 0]), as_images([0, 1.0, 0], [1.0, 0, 0])
    half = as_images([0.5**0.5, 0.5**0.5, 0], [1.0, 0, 0])
    torch.testing.assert_close(slerp(a, b, 0.5), half)


def test_slerp_between_noises_is_as_long_as_noise():
    a, b = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for fraction in FRACTIONS:
        between = slerp(a, b, fraction)
        assert between.dtype == torch.float32
        torch.testing.assert_close(between.std(dim=(1, 2, 3)), torch.ones(8), rtol=0.03, atol=0)
    assert ((a + b) / 2).std() < 0.75


def test_slerp_refuses_opposite_images_other_shapes_and_fractions(pair):
    a = pair[0][None]
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, -2 * a, 0.5)
    with pytest.raises(ValueError, match=r"one shape, not \(1, 2, 4, 4\) and \(1, 4\)"):
        slerp(a, torch.zeros(1, 4), 0.5)
    with pytest.raises(ValueError, match=r"between 0 \(a\) and 1 \(b\), not 1.5"):
        slerp(a, a, 1.5)
