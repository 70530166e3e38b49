import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.diffusion import (
    SPACINGS,
    Prediction,
    clamp_x0,
    ddim,
    ddpm,
    sampling_times,
)

SHAPE = (2, 1, 3, 3)
SAMPLERS = {
    "ddpm small": partial(ddpm, variance="small"),
    "ddpm large": partial(ddpm, variance="large"),
    "ddim 0": partial(ddim, eta=0.0),
    "ddim 0.5": partial(ddim, eta=0.5),
    "ddim 1": partial(ddim, eta=1.0),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@pytest.fixture
def denoise(schedule):
    """Some smooth denoiser, its coefficients in float64."""

    def predict(x_t: torch.Tensor, t: int) -> Prediction:
        alpha_bar = schedule.alpha_bar[t]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return Prediction("x0", 2 * torch.sin(x_t + t), x_t, alpha, sigma)

    return predict


@pytest.fixture
def noise(fixed_noise):
    return fixed_noise(*SHAPE)


@pytest.fixture
def start(fixed_noise) -> torch.Tensor:
    return fixed_noise(*SHAPE)(0)


# ---- the times that are visited -------------------------------------------------------------


@given(data=st.data(), T=st.integers(1, 2000), spacing=st.sampled_from(sorted(SPACINGS)))
def test_times_fall_strictly_within_1_to_T_and_end_as_their_spacing_says(data, T, spacing):
    steps = data.draw(st.integers(1, T))
    times = sampling_times(T, steps, spacing)
    assert len(times) == steps
    assert all(type(t) is int and 1 <= t <= T for t in times)
    assert all(t > s for t, s in pairwise(times))
    if spacing in ("trailing", "linspace"):
        assert times[0] == T
    if spacing == "leading" or (spacing == "linspace" and steps > 1):
        assert times[-1] == 1


@given(data=st.data(), T=st.integers(1, 2000))
def test_times_are_evenly_spaced(data, T):
    steps = data.draw(st.integers(1, T))
    for i, t in enumerate(reversed(sampling_times(T, steps, "leading"))):
        assert t == 1 + i * (T // steps)
    for i, t in enumerate(sampling_times(T, steps, "trailing")):
        assert abs(t - (T - i * T / steps)) <= 0.5
    for i, t in enumerate(sampling_times(T, steps, "linspace")):
        assert abs(t - (T - i * (T - 1) / max(steps - 1, 1))) <= 0.5 + 1e-9


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_are_all_times(spacing):
    assert sampling_times(1000, 1000, spacing) == list(range(1000, 0, -1))


@pytest.mark.parametrize(
    ("spacing", "times"),
    [
        ("leading", [853, 711, 569, 427, 285, 143, 1]),
        ("trailing", [1000, 857, 714, 571, 429, 286, 143]),
        ("linspace", [1000, 834, 667, 500, 334, 168, 1]),
    ],
)
def test_seven_steps_of_a_thousand(spacing, times):
    assert sampling_times(1000, 7, spacing) == times


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=f"between 1 and T = 1000, not {steps}"):
        sampling_times(1000, steps)


# ---- every sampler --------------------------------------------------------------------------


@each_sampler
def test_steps_lead_from_each_kept_time_to_the_next_and_then_to_0(
    sampler, schedule, denoise, noise, start
):
    x = start
    steps = list(sampler(denoise, schedule, start, [900, 40, 2], noise=noise))
    assert [(step.t, step.s) for step in steps] == [(900, 40), (40, 2), (2, 0)]
    for step in steps:
        assert torch.equal(step.x0, denoise(x, step.t).x0)
        x = step.x


@each_sampler
def test_noise_is_asked_for_at_no_last_step(sampler, schedule, denoise, noise, start):
    asked = []

    def recorded(t: int) -> torch.Tensor:
        asked.append(t)
        return noise(t)

    list(sampler(denoise, schedule, start, [900, 40, 2], noise=recorded))
    deterministic = sampler.keywords.get("eta") == 0
    assert asked == ([] if deterministic else [900, 40])


@each_sampler
def test_the_last_step_gives_the_predicted_x0(sampler, schedule, denoise, noise, start):
    for times in ([1000], [500], [1000, 1]):  # one step works too
        *_, last = sampler(denoise, schedule, start, times, noise=noise)
        torch.testing.assert_close(last.x, last.x0, rtol=1e-12, atol=1e-12)


@each_sampler
@pytest.mark.parametrize("limits", [(), (-0.5, 0.25)], ids=["default", "narrow"])
def test_a_clamped_x0_is_what_the_step_is_taken_with(
    sampler, limits, schedule, denoise, noise, start
):
    low, high = limits or (-1, 1)

    def already_clamped(x_t: torch.Tensor, t: int) -> Prediction:
        free = denoise(x_t, t)
        return Prediction("x0", free.x0.clip(low, high), x_t, free.alpha, free.sigma)

    times = [900, 40, 2]
    clamped = list(sampler(clamp_x0(denoise, *limits), schedule, start, times, noise=noise))
    expected = sampler(already_clamped, schedule, start, times, noise=noise)
    for step, right in zip(clamped, expected, strict=True):
        assert low <= step.x0.min()
        assert step.x0.max() <= high
        torch.testing.assert_close(step.x, right.x, rtol=0, atol=1e-12)
    free = next(sampler(denoise, schedule, start, times, noise=noise))
    assert not torch.allclose(clamped[0].x, free.x, atol=1e-3)


# ---- each sampler's rule --------------------------------------------------------------------


def only_step(sampler, schedule, denoise, x, t, s, noise):
    return next(sampler(denoise, schedule, x, [t, s], noise=noise)).x


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 10), (2, 1)])
def test_ddpm_draws_from_the_posterior_with_either_variance(schedule, denoise, noise, start, t, s):
    mean, small = schedule.posterior(denoise(start, t).x0, start, t, s)
    large = 1 - schedule.alpha_bar[t] / schedule.alpha_bar[s]
    for name, variance in (("small", small), ("large", large)):
        x = only_step(SAMPLERS[f"ddpm {name}"], schedule, denoise, start, t, s, noise)
        torch.testing.assert_close(x, mean + variance.sqrt() * noise(t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 10), (2, 1)])
def test_ddim_is_equation_12_of_its_paper(schedule, denoise, noise, start, eta, t, s):
    a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    std = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
    x0 = denoise(start, t).x0
    eps = (start - math.sqrt(a_t) * x0) / math.sqrt(1 - a_t)
    expected = math.sqrt(a_s) * x0 + math.sqrt(1 - a_s - std**2) * eps + std * noise(t)
    x = only_step(partial(ddim, eta=eta), schedule, denoise, start, t, s, noise)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [7, 53, 1000])
def test_ddim_with_eta_1_is_ddpm_with_small_variance(schedule, denoise, noise, start, steps):
    times = sampling_times(schedule.T, steps)
    by_ddim = ddim(denoise, schedule, start, times, noise=noise, eta=1.0)
    by_ddpm = ddpm(denoise, schedule, start, times, noise=noise, variance="small")
    for a, b in zip(by_ddim, by_ddpm, strict=True):
        # Each rounds as it likes; sin(x + t) may double the difference at some steps.
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-8)
