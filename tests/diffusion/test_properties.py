"""What holds for every schedule, every kind of prediction and every shape of images."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fromnoise.diffusion import (
    SAMPLERS,
    SCHEDULES,
    TIMESTEPS,
    Denoiser,
    NoiseSchedule,
    Prediction,
    sampling_timesteps,
)

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

KINDS = ("eps", "x0", "v", "flow", "edm")
NAMED = sorted(SCHEDULES.keys() - {"custom"})


@st.composite
def schedules(draw: st.DrawFn, least: int = 2) -> NoiseSchedule:
    """Any named schedule, its usual options, of any length, with or without zero terminal SNR."""
    name = draw(st.sampled_from(NAMED))
    T = draw(st.integers(max(least, 25 if name == "linear_rescaled" else 0), 1000))
    return NoiseSchedule.named(name, T, zero_terminal_snr=draw(st.booleans()))


@st.composite
def images(draw: st.DrawFn) -> Callable[[], Tensor]:
    """draw() → standard normal images of one shape (B,C,H,W), float64, each time others."""
    shape = tuple(draw(st.integers(1, 5)) for _ in range(4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def coefficients(schedule: NoiseSchedule, t: int) -> tuple[Tensor, Tensor]:
    a = schedule.alpha_bar[t]
    return a.sqrt(), (1 - a).sqrt()


# ---- predictions ----------------------------------------------------------------------------


def values(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """What a network of each kind should return; σ_d = 1/2."""
    edm = 2 * (sigma * x0 - alpha * eps / 4) / (sigma**2 + alpha**2 / 4).sqrt()
    v = alpha * eps - sigma * x0
    return {"x0": x0, "eps": eps, "v": v, "flow": eps - x0, "edm": edm}


@given(data=st.data(), schedule=schedules(), images=images(), kinds=st.permutations(KINDS))
def test_from_one_kind_to_the_others_and_back(data, schedule, images, kinds):
    # e.g. x_0 → ε → v → x_0, each read from a prediction that is made of the one before alone
    t = data.draw(st.integers(1, schedule.T))
    alpha, sigma = coefficients(schedule, t)
    if alpha == 0:  # x_T is ε: it says nothing of x_0
        kinds = [kind for kind in kinds if kind != "eps"]
    x0, eps = images(), images()
    x_t = alpha * x0 + sigma * eps
    truth = values(x0, eps, alpha, sigma)
    value = truth[kinds[0]]
    for kind, following in zip(kinds, [*kinds[1:], kinds[0]], strict=True):
        prediction = Prediction(kind, value, x_t, alpha, sigma)
        value = replace(prediction, kind=following).value_of(prediction.x0, prediction.eps)
        torch.testing.assert_close(value, truth[following], rtol=1e-6, atol=1e-6)


@given(data=st.data(), schedule=schedules(), images=images(), kind=st.sampled_from(KINDS))
def test_a_perfect_prediction_of_any_kind_undoes_add_noise(data, schedule, images, kind):
    # With the float32 coefficients that networks are trained with, one time for each image.
    x0, eps = images(), images()
    nothing_left = kind == "eps" and schedule.alpha_bar[-1] == 0  # where ε says nothing of x_0
    last = schedule.T - 1 if nothing_left else schedule.T
    t = torch.tensor(data.draw(st.lists(st.integers(1, last), min_size=len(x0), max_size=len(x0))))
    x_t = schedule.add_noise(x0, eps, t)
    alpha, sigma = (c.double()[:, None, None, None] for c in (schedule.alpha(t), schedule.sigma(t)))
    truth = values(x0, eps, alpha, sigma)
    prediction = Prediction(kind, truth[kind], x_t, alpha, sigma)
    # ε is worth σ/α times itself in x_0, and x_0 is worth α/σ in ε; v stands between, and α² + σ²
    # is 1 to 1e-7 only.
    tolerance = 1e-6 * (1 + x0.abs().max() + eps.abs().max())
    got_x0, got_eps = prediction.x0, prediction.eps
    assert ((got_x0 - x0) * alpha).abs().max() <= tolerance
    assert ((got_eps - eps) * sigma).abs().max() <= tolerance
    if kind in ("v", "flow"):
        assert (got_x0 - x0).abs().max() <= tolerance
        assert (got_eps - eps).abs().max() <= tolerance


# ---- the forward process --------------------------------------------------------------------


@given(data=st.data(), schedule=schedules(), x0=st.floats(-3, 3))
def test_the_posterior_leads_from_add_noise_at_t_to_add_noise_at_s(data, schedule, x0):
    # x_t = α_t x_0 + σ_t ε, then x_s ~ q(x_s | x_t, x_0) with its own noise: mean and variance of
    # x_s are those of q(x_s | x_0). And again from s to an earlier time.
    times = sorted(data.draw(st.sets(st.integers(0, schedule.T), min_size=3, max_size=3)))
    last, s, t = times
    value = torch.tensor(x0, dtype=torch.float64).reshape(1)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    mean, variance = coefficients(schedule, t)[0] * value, 1 - schedule.alpha_bar[t]
    for a, b in ((t, s), (s, last)):
        at_mean, added = schedule.posterior(value, mean, a, b)
        of_x_t, _ = schedule.posterior(zero, one, a, b)
        mean, variance = at_mean, of_x_t.square() * variance + added
        alpha, sigma = coefficients(schedule, b)
        torch.testing.assert_close(mean, alpha * value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(variance.reshape(()), sigma.square(), rtol=1e-6, atol=1e-12)


@given(data=st.data(), schedule=schedules())
def test_the_posterior_over_two_steps_is_both_steps(data, schedule):
    # q(x_r | x_t, x_0) is q(x_s | x_t, x_0) followed by q(x_r | x_s, x_0).
    r, s, t = sorted(data.draw(st.sets(st.integers(0, schedule.T), min_size=3, max_size=3)))
    x0, x_t = torch.tensor([[0.7], [-2.0]], dtype=torch.float64)
    at_s, variance_s = schedule.posterior(x0, x_t, t, s)
    mean, variance = schedule.posterior(x0, at_s, s, r)
    of_x_s, _ = schedule.posterior(x0 * 0, x0 * 0 + 1, s, r)
    expected, variance_r = schedule.posterior(x0, x_t, t, r)
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)
    both = (of_x_s.square() * variance_s + variance).reshape(())
    torch.testing.assert_close(both, variance_r.reshape(()), rtol=1e-6, atol=1e-12)


# ---- the reverse process --------------------------------------------------------------------


@given(
    data=st.data(),
    schedule=schedules(),
    images=images(),
    kind=st.sampled_from(KINDS),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    timesteps=st.sampled_from(sorted(TIMESTEPS)),
)
def test_who_knows_the_image_ends_with_it(data, schedule, images, kind, sampler, timesteps):
    """The network that knows x_0, whatever it predicts: every sampler ends at x_0, from any x_T."""
    if schedule.alpha_bar[-1] == 0 and kind == "eps":
        kind = "v"
    x0 = images().clamp(-1, 1)

    class Knowing(torch.nn.Module):
        def forward(self, x_t: Tensor, index: Tensor, cond: None) -> Tensor:
            t = int(index[0]) + 1
            alpha, sigma = schedule.alpha(t).double(), schedule.sigma(t).double()
            x_t = x_t * (sigma**2 + alpha**2 / 4).sqrt() if kind == "edm" else x_t
            return values(x0, (x_t - alpha * x0) / sigma, alpha, sigma)[kind]

    denoise = Denoiser(Knowing(), schedule, kind)
    steps = data.draw(st.integers(1, min(schedule.T, 8)))
    times = sampling_timesteps(schedule, steps, timesteps)
    walk = SAMPLERS[sampler](denoise, schedule, images(), times, noise=lambda t: images())
    last = None
    for last in walk:
        assert last.x.isfinite().all()
        assert last.x.shape == x0.shape
    assert last is not None
    assert last.s == 0
    torch.testing.assert_close(last.x, x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_with_zero_terminal_snr_x_T_is_the_noise_itself(name):
    schedule = NoiseSchedule.named(name, 100, zero_terminal_snr=True)
    x0, eps = torch.randn(2, 3, 1, 2, 2)
    assert torch.equal(schedule.add_noise(x0, eps, 100), eps)
    assert schedule.log_snr(100) == -math.inf
