"""A learned variance read as log σ² itself, beside the same variance read as a fraction."""

import pytest
import torch
from torch import nn

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    bound_term,
    clamp_x0,
    classifier_free,
    composed,
)
from fromnoise.diffusion.samplers import step_std

COND = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


class Wave(nn.Module):
    """Some smooth network of one channel; `second` makes its other half of f and t."""

    def __init__(self, second) -> None:
        super().__init__()
        self.second = second

    def forward(self, x_t, index, cond):
        shift = 0 if cond is None else cond.reshape(-1, 1, 1, 1)
        f = 0.5 + 0.4 * torch.sin(3 * x_t + shift)
        return torch.cat([torch.sin(2 * x_t + shift), self.second(f, index + 1)], dim=1)


@pytest.fixture
def pair():
    """A denoiser that returns f as raw = 2f − 1, and one that returns the log σ² of the same f."""
    schedule = NoiseSchedule.named("cosine", 50)

    def as_log(f, t):
        small, large = (v.log().reshape(-1, 1, 1, 1) for v in schedule.variances(t, t - 1))
        return f * large + (1 - f) * small

    by_fraction = Denoiser(Wave(lambda f, t: 2 * f - 1), schedule)
    return by_fraction, Denoiser(Wave(as_log), schedule, "eps", "log")


@pytest.fixture
def x():
    return torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)).double()


def test_a_prediction_has_one_of_the_two(pair, x):
    by_fraction, by_log = (denoiser(x, 9) for denoiser in pair)
    assert by_fraction.log_variance is None
    assert by_log.fraction is None
    small, large = (v.log() for v in pair[0].schedule.variances(9, 8))
    expected = by_fraction.fraction * large + (1 - by_fraction.fraction) * small
    torch.testing.assert_close(by_log.log_variance, expected)
    assert torch.equal(by_log.with_x0(x).log_variance, by_log.log_variance)


@pytest.mark.parametrize("t", [1, 2, 30, 50, torch.tensor([1, 50]), torch.tensor([2, 40])], ids=str)
def test_both_readings_are_the_same_step_and_the_same_bound(pair, x, t):
    first, second = (step_std(d(x, t), d.schedule, t, t - 1, "learned") for d in pair)
    torch.testing.assert_close(second, first, rtol=1e-6, atol=0)
    x0 = (x.clamp(-1, 1) * 127.5).round() / 127.5
    first, second = (bound_term(d, x0, x.flip(3), t, variance="learned") for d in pair)
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), [(50, 30), (50, 0), (7, 2)])
def test_a_longer_step_is_wider_than_the_small_one_by_as_much_as_a_single_one(pair, x, t, s):
    schedule, prediction = pair[1].schedule, pair[1](x, t)
    excess = prediction.log_variance - schedule.variances(t, t - 1)[0].log()
    expected = (excess + schedule.variances(t, s)[0].log()).exp().sqrt()
    got = step_std(prediction, schedule, t, s, "learned")
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)


def test_guidance_and_the_clamp_keep_it(pair, x):
    denoiser, zeros = pair[1], torch.zeros_like(COND)
    of_cond = denoiser(x, 20, COND).log_variance
    guided = clamp_x0(classifier_free(denoiser, COND, 3.0))(x, 20)
    torch.testing.assert_close(guided.log_variance, of_cond)
    both = composed(denoiser, [COND, -COND], [2.0, 1.0])(x, 20)
    mean = (of_cond + denoiser(x, 20, -COND).log_variance) / 2
    torch.testing.assert_close(both.log_variance, mean)
    assert not torch.allclose(denoiser(x, 20, zeros).log_variance, of_cond)
    assert both.fraction is guided.fraction is None


def test_another_network_is_read_in_the_same_way(pair):
    denoiser, other = pair[1], nn.Identity()
    again = denoiser.with_network(other)
    assert again.network is other
    assert (again.prediction, again.variance_reading) == ("eps", "log")
    assert again.schedule is denoiser.schedule
