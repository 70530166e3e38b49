import math
from functools import partial

import pytest
import torch

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    Prediction,
    clamp_x0,
    classifier_free,
    ddim,
    ddpm,
    dpmpp,
    dpmpp_sde,
    dynamic_threshold,
    euler,
    heun,
    ipndm,
    reverse_step,
    sampling_timesteps,
    unipc,
)

SHAPE = (2, 1, 3, 3)
SAMPLERS = {
    "ddpm small": partial(ddpm, variance="small"),
    "ddpm large": partial(ddpm, variance="large"),
    "ddim 0": partial(ddim, eta=0.0),
    "ddim 0.5": partial(ddim, eta=0.5),
    "ddim 1": partial(ddim, eta=1.0),
    "euler": euler,
    "heun": heun,
    "ipndm": ipndm,
    "ipndm 2": partial(ipndm, order=2),
    "dpm++": dpmpp,
    "dpm++sde": dpmpp_sde,
    "unipc": unipc,
    "unipc 3": partial(unipc, order=3),
}
STOCHASTIC = {"ddpm small", "ddpm large", "ddim 0.5", "ddim 1", "dpm++sde"}
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


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_asked_for_at_no_last_step(name, schedule, denoise, noise, start):
    asked = []

    def recorded(t: int) -> torch.Tensor:
        asked.append(t)
        return noise(t)

    list(SAMPLERS[name](denoise, schedule, start, [900, 40, 2], noise=recorded))
    assert asked == ([900, 40] if name in STOCHASTIC else [])


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


@pytest.mark.parametrize("name", ["heun", "heun churn", "ipndm", "unipc 3"])
def test_a_learned_variance_guidance_and_a_threshold_change_nothing_else(
    name, schedule, wave_denoiser, noise, start
):
    sampler = partial(heun, churn=10.0) if name == "heun churn" else SAMPLERS[name]
    times = sampling_timesteps(schedule, 20)

    def ends(denoise):
        return list(sampler(denoise, schedule, start, times, noise=noise))

    plain = wave_denoiser(schedule, "v", False)[0]
    learned = wave_denoiser(schedule, "v", False, learned=True)[0]
    for a, b in zip(ends(plain), ends(learned), strict=True):
        assert torch.equal(a.x, b.x)
    guided = classifier_free(learned, torch.zeros(2, 1), 3.0)  # both estimates are the same
    for a, b in zip(ends(guided), ends(plain), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-3)
    *_, last = ends(dynamic_threshold(guided))
    assert last.x0.abs().max() <= 1
    torch.testing.assert_close(last.x, last.x0, rtol=0, atol=1e-6)


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
    times = sampling_timesteps(schedule, steps)
    by_ddim = ddim(denoise, schedule, start, times, noise=noise, eta=1.0)
    by_ddpm = ddpm(denoise, schedule, start, times, noise=noise, variance="small")
    for a, b in zip(by_ddim, by_ddpm, strict=True):
        # Each rounds as it likes; sin(x + t) may double the difference at some steps.
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-8)


def test_ipndm_of_order_1_is_ddim(schedule, denoise, noise, start):
    times = sampling_timesteps(schedule, 20)
    first = ipndm(denoise, schedule, start, times, noise=noise, order=1)
    for a, b in zip(first, ddim(denoise, schedule, start, times, noise=noise), strict=True):
        assert torch.equal(a.x, b.x)


def test_without_an_image_at_T_the_first_step_of_ipndm_and_heun_is_ddims(denoise, noise, start):
    schedule = NoiseSchedule.named("linear", 1000, zero_terminal_snr=True)

    def predict(x_t: torch.Tensor, t: int) -> Prediction:
        a = schedule.alpha_bar[t]
        return Prediction("v", torch.sin(x_t + t), x_t, a.sqrt(), (1 - a).sqrt())

    def first(sampler):
        return next(sampler(predict, schedule, start, [1000, 900, 500], noise=noise))

    for sampler in (heun, partial(heun, churn=40.0), ipndm):
        assert torch.equal(first(sampler).x, first(ddim).x)


@pytest.mark.parametrize("order", [0, 5, 2.5])
def test_an_order_that_there_is_not_is_refused(schedule, denoise, noise, start, order):
    for sampler, known in ((ipndm, "1, 2, 3 or 4"), (unipc, "2 or 3")):
        steps = sampler(denoise, schedule, start, [900, 40], noise=noise, order=order)
        with pytest.raises(ValueError, match=f"order must be {known}, not {order}"):
            next(steps)


def test_an_order_above_the_steps_uses_what_there_is(schedule, denoise, noise, start):
    times = [900, 400, 40]  # the last step is of the first order, so that two ε̂ meet at most
    pairs = [(ipndm, 4, 2), (unipc, 3, 2)]
    for sampler, more, less in pairs:
        a, b = (
            sampler(denoise, schedule, start, times, noise=noise, order=k) for k in (more, less)
        )
        for left, right in zip(a, b, strict=True):
            assert torch.equal(left.x, right.x)


# ---- churn ----------------------------------------------------------------------------------


def churned(denoise, schedule, x, times, noise, churn, first=1, last=1000):
    """Algorithm 2 of Karras et al. in their x̄ = x/α and σ = σ/α, times looked up one by one."""
    sigma = [((1 - a) / a) ** 0.5 for a in schedule.alpha_bar.tolist()]
    alpha = [a**0.5 for a in schedule.alpha_bar.tolist()]
    x_bar = x / alpha[times[0]]
    for t, s in zip(times, [*times[1:], 0], strict=True):
        gamma = min(churn / len(times), math.sqrt(2) - 1) if first <= t <= last else 0
        wanted = sigma[t] + gamma * sigma[t]
        u = min(range(t, 1001), key=lambda each: abs(sigma[each] - wanted))
        x_hat = x_bar + math.sqrt(sigma[u] ** 2 - sigma[t] ** 2) * noise(t)
        d = (x_hat - denoise(x_hat * alpha[u], u).x0) / sigma[u]
        x_bar = x_hat + (sigma[s] - sigma[u]) * d
        if s > 0:
            d_next = (x_bar - denoise(x_bar * alpha[s], s).x0) / sigma[s]
            x_bar = x_hat + (sigma[s] - sigma[u]) * (d + d_next) / 2
        yield u, x_bar * alpha[s]


@pytest.mark.parametrize("options", [(40.0,), (5.0,), (1e3, 100, 600)], ids=str)
def test_churn_is_algorithm_2_of_its_paper_at_times_of_the_table(schedule, denoise, noise, options):
    times = sampling_timesteps(schedule, 20, "log_snr")
    names = dict(zip(("churn", "churn_first", "churn_last"), options, strict=False))
    seen, asked = [], []

    def recorded(x_t: torch.Tensor, t: int) -> Prediction:
        seen.append(t)
        return denoise(x_t, t)

    def drawn(t: int) -> torch.Tensor:
        asked.append(t)
        return noise(t)

    steps = heun(recorded, schedule, noise(0), times, noise=drawn, **names)
    expected = list(churned(denoise, schedule, noise(0), times, noise, *options))
    for step, t, (u, right) in zip(steps, times, expected, strict=True):
        assert (step.t, seen.pop(0)) == (t, u)
        seen.clear()
        torch.testing.assert_close(step.x, right, rtol=0, atol=1e-9)
    first, last = options[1:] or (1, 1000)
    raised = [t for t, (u, _) in zip(times, expected, strict=True) if u > t]
    assert asked == raised
    assert all(first <= t <= last for t in raised)
    assert 1000 not in raised
    assert len(raised) > 2


def test_churn_too_small_for_the_table_and_none_are_heun(schedule, denoise, start, noise):
    times = sampling_timesteps(schedule, 20)

    def none(t: int) -> torch.Tensor:
        raise AssertionError(t)

    plain = list(heun(denoise, schedule, start, times, noise=none))
    for options in ({"churn": 0.0}, {"churn": 0.01}, {"churn": 40.0, "churn_first": 1000}):
        again = heun(denoise, schedule, start, times, noise=none, **options)
        for a, b in zip(again, plain, strict=True):
            assert torch.equal(a.x, b.x)


def test_churn_keeps_the_marginals_of_the_data(schedule):
    # x_0 ~ N(0, c): with x_T = 0 and noise z = 1 in one step alone, all is linear.
    c = torch.tensor(0.4, dtype=torch.float64)
    times = sampling_timesteps(schedule, 300, "log_snr")
    probes = torch.zeros(1 + len(times), 1, 1, 1, dtype=torch.float64)
    a_T = schedule.alpha_bar[-1]
    probes[0] = (a_T * c + 1 - a_T).sqrt()

    def gaussian(x_t: torch.Tensor, t: int) -> Prediction:
        a = schedule.alpha_bar[t]
        x0 = a.sqrt() * c / (a * c + 1 - a) * x_t
        return Prediction("x0", x0, x_t, a.sqrt(), (1 - a).sqrt())

    def noise(t: int) -> torch.Tensor:
        z = torch.zeros_like(probes)
        z[1 + times.index(t)] = 1
        return z

    *_, last = heun(gaussian, schedule, probes, times, noise=noise, churn=40.0)
    assert last.x[0].abs().item() < 0.2 * c.sqrt()  # little is left of x_T itself
    assert last.x.square().sum().item() == pytest.approx(c.item(), rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"churn": -1.0}, "churn must be at least 0, not -1"),
        ({"churn": math.nan}, "churn must be at least 0, not nan"),
        (
            {"churn_first": 0},
            r"churn_first = 0 and churn_last = 1000 must not fall, each in 1\.\.1000",
        ),
        ({"churn_first": 9, "churn_last": 8}, "churn_first = 9 and churn_last = 8 must not fall"),
        ({"churn_last": 1001}, "churn_last = 1001 must not fall"),
    ],
    ids=str,
)
def test_an_impossible_churn_is_refused(schedule, denoise, noise, start, options, message):
    with pytest.raises(ValueError, match=message):
        next(heun(denoise, schedule, start, [900, 40], noise=noise, **options))


# ---- one step alone -------------------------------------------------------------------------


class Wave(torch.nn.Module):
    """Some smooth network with a learned variance, its raw values from −1.4 to 1.4."""

    def forward(self, x_t, index, cond):
        wave = torch.sin(2 * x_t + index[:, None, None, None] / 300)
        return torch.cat([wave, 1.4 * wave.flip(3)], dim=1)


each_variance = pytest.mark.parametrize("variance", ["small", "large", "learned"])


@each_variance
def test_reverse_steps_in_a_row_are_ddpm(schedule, noise, start, variance):
    denoise = clamp_x0(Denoiser(Wave(), schedule))
    times = sampling_timesteps(schedule, 53)
    x = start
    sampler = ddpm(denoise, schedule, start, times, noise=noise, variance=variance)
    for step, t, s in zip(sampler, times, [*times[1:], 0], strict=True):
        x, x0 = reverse_step(denoise(x, t), schedule, t, s, noise(t), variance=variance)
        assert torch.equal(step.x, x)
        assert torch.equal(step.x0, x0)


@each_variance
def test_a_step_takes_a_time_for_each_image(schedule, fixed_noise, variance):
    x_t, z = fixed_noise(4, 1, 3, 3)(1), fixed_noise(4, 1, 3, 3)(2)
    denoise = clamp_x0(Denoiser(Wave(), schedule))
    t, s = torch.tensor([1, 2, 800, 800]), torch.tensor([0, 1, 799, 0])
    together = reverse_step(denoise(x_t, t), schedule, t, s, z, variance=variance)
    for i in range(4):
        one, a, b = slice(i, i + 1), int(t[i]), int(s[i])
        alone = reverse_step(denoise(x_t[one], a), schedule, a, b, z[one], variance=variance)
        for got, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(got[one], expected, rtol=0, atol=0)


@each_variance
def test_noise_is_not_used_in_the_images_whose_next_time_is_0(schedule, fixed_noise, variance):
    x_t = fixed_noise(2, 1, 3, 3)(1)
    t, s = torch.tensor([5, 5]), torch.tensor([0, 4])
    prediction = Denoiser(Wave(), schedule)(x_t, t)
    a, x0 = reverse_step(prediction, schedule, t, s, torch.zeros_like(x_t), variance=variance)
    b, _ = reverse_step(prediction, schedule, t, s, torch.ones_like(x_t), variance=variance)
    assert torch.equal(a[0], b[0])
    torch.testing.assert_close(a[0], x0[0], rtol=1e-12, atol=1e-12)
    assert (a[1] != b[1]).all()


def test_the_mean_of_a_step_follows_the_clamped_x0(schedule, fixed_noise):
    x_t = 3 * fixed_noise(2, 1, 3, 3)(1)
    prediction = clamp_x0(Denoiser(Wave(), schedule))(x_t, 300)
    mean, x0 = reverse_step(prediction, schedule, 300, 299, torch.zeros_like(x_t))
    assert x0.abs().max() == 1
    expected, _ = schedule.posterior(x0, x_t, 300, 299)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0)


@pytest.mark.parametrize("t", [2, 300, 1000])
def test_the_mean_of_a_step_is_x_t_less_a_share_of_the_noise(schedule, fixed_noise, t):
    # Eq. 11 of Ho et al., from β_t and ᾱ_t alone.
    x_t, eps = fixed_noise(2, 1, 3, 3)(1), fixed_noise(2, 1, 3, 3)(2)
    alpha_bar = schedule.alpha_bar[t]
    beta = 1e-4 + (0.02 - 1e-4) * (t - 1) / 999
    prediction = Prediction("eps", eps, x_t, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
    mean, _ = reverse_step(prediction, schedule, t, t - 1, torch.zeros_like(x_t))
    expected = (x_t - beta / (1 - alpha_bar).sqrt() * eps) / math.sqrt(1 - beta)
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)


# ---- a learned variance ---------------------------------------------------------------------


def widths(schedule, fraction, t, s, variance="learned"):
    """What one unit of noise adds in a step."""
    x_t = torch.zeros_like(fraction)
    one = torch.ones((), dtype=torch.float64)
    prediction = Prediction("x0", x_t, x_t, one, one, fraction)
    with_noise, _ = reverse_step(
        prediction, schedule, t, s, torch.ones_like(x_t), variance=variance
    )
    return with_noise


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 10), (2, 1), (3, 2)])
def test_a_learned_variance_lies_between_small_and_large_in_its_logarithm(schedule, t, s):
    # The definition from β and ᾱ as in the paper, and one pixel for each fraction.
    fraction = torch.tensor([0.0, 1.0, 0.5, -0.3, 1.2], dtype=torch.float64)
    beta = 1 - schedule.alpha_bar[t] / schedule.alpha_bar[s]
    least = (1 - schedule.alpha_bar[s]) / (1 - schedule.alpha_bar[t]) * beta
    expected = (beta**fraction * least ** (1 - fraction)).sqrt()
    got = widths(schedule, fraction.reshape(1, 1, 1, 5), t, s).flatten()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_fixed_variance_ignores_what_was_learned(schedule, variance):
    shape = (1, 1, 1, 5)
    learned = torch.linspace(-1, 2, 5, dtype=torch.float64).reshape(shape)
    got = widths(schedule, learned, 500, 490, variance)
    std = schedule.variances(500, 490)[variance == "large"].sqrt()
    torch.testing.assert_close(got, std.expand(shape), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("raw", [40.0, 60.0])
def test_a_learned_variance_beyond_all_numbers_still_ends_in_an_image(schedule, raw, steps):
    # σ of the last step is ∞ in float32, but that step adds no noise.
    class Wide(torch.nn.Module):
        def forward(self, x_t, index, cond):
            return torch.cat([torch.zeros_like(x_t), torch.full_like(x_t, raw)], dim=1)

    def noise(t: int) -> torch.Tensor:
        return torch.ones(SHAPE)

    denoise = clamp_x0(Denoiser(Wide(), schedule))
    times = sampling_timesteps(schedule, steps)
    *_, last = ddpm(denoise, schedule, noise(0), times, noise=noise, variance="learned")
    torch.testing.assert_close(last.x, last.x0)
    assert last.x.abs().max() <= 1


def test_learned_is_refused_where_nothing_was_learned(schedule, denoise, noise, start):
    sampler = ddpm(denoise, schedule, start, [900, 40], noise=noise, variance="learned")
    with pytest.raises(
        ValueError, match=r"this network predicts none\. Use small or large, or train"
    ):
        next(sampler)


@each_sampler
def test_times_that_do_not_fall_within_1_to_T_are_refused(sampler, schedule, denoise, noise, start):
    for times in ([1, 500], [500, 500, 1], [999, 500, 0], [1001, 5], [5, -1]):
        with pytest.raises(ValueError, match=r"times must fall, each in 1\.\.1000"):
            next(sampler(denoise, schedule, start, times, noise=noise))
