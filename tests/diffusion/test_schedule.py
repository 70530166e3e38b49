import math

import pytest
import torch

from fromnoise.diffusion import NoiseSchedule

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

T = 1000


def float64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# ---- the three families ---------------------------------------------------------------------


@pytest.mark.parametrize(("T", "beta_1", "beta_T"), [(1000, 1e-4, 0.02), (500, 2e-4, 0.028)])
def test_linear_is_a_straight_line_of_betas(T, beta_1, beta_T):
    schedule = NoiseSchedule.named("linear", T, beta_1=beta_1, beta_T=beta_T)
    betas = [beta_1 + (beta_T - beta_1) * i / (T - 1) for i in range(T)]
    expected = [math.prod(1 - beta for beta in betas[:t]) for t in range(T + 1)]
    assert schedule.alpha_bar.tolist() == pytest.approx(expected, rel=1e-12)


def test_linear_defaults_to_the_papers_values():
    default = NoiseSchedule.named("linear", T).alpha_bar
    paper = NoiseSchedule.named("linear", T, beta_1=1e-4, beta_T=0.02).alpha_bar
    assert torch.equal(default, paper)
    assert default[-1].item() == pytest.approx(4.036e-5, rel=1e-3)


@pytest.mark.parametrize("offset", [0.008, 0.05])
def test_cosine_is_a_squared_cosine_of_alpha_bar_until_beta_is_cut_off(offset):
    schedule = NoiseSchedule.named("cosine", T, offset=offset)

    def f(t: int) -> float:
        return math.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2

    expected = [f(t) / f(0) for t in range(T)]  # without t = T, where f is 0 …
    expected.append(expected[-1] * (1 - 0.999))  # … and β therefore cut off
    assert schedule.alpha_bar.tolist() == pytest.approx(expected, rel=1e-9)


def test_cosine_defaults_to_the_offset_of_the_paper():
    default = NoiseSchedule.named("cosine", T).alpha_bar
    assert torch.equal(default, NoiseSchedule.named("cosine", T, offset=0.008).alpha_bar)


def test_given_takes_the_betas_as_they_are():
    schedule = NoiseSchedule.named("custom", 3, betas=[0.1, 0.2, 0.5])
    assert schedule.alpha_bar.tolist() == pytest.approx([1, 0.9, 0.72, 0.36])
    assert schedule.T == 3


# ---- what they share ------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_alpha_bar_falls_from_exactly_1_in_float64(name, T):
    schedule = NoiseSchedule.named(name, T)
    assert schedule.alpha_bar.dtype == torch.float64
    assert schedule.alpha_bar.shape == (T + 1,)
    assert schedule.alpha_bar[0] == 1
    assert (schedule.alpha_bar.diff() < 0).all()
    assert schedule.T == T


def test_betas_of_low_precision_make_a_table_of_high_precision():
    betas = torch.full((100,), 0.125, dtype=torch.bfloat16)  # exact in any precision
    assert NoiseSchedule(betas).alpha_bar[100].item() == pytest.approx(0.875**100, rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_coefficients_follow_from_alpha_bar(name):
    schedule = NoiseSchedule.named(name, T)
    t = torch.arange(1, T + 1)
    a = schedule.alpha_bar[1:]
    for got, expected in [
        (schedule.alpha(t), a.sqrt()),
        (schedule.sigma(t), (1 - a).sqrt()),
        (schedule.snr(t), a / (1 - a)),
        (schedule.log_snr(t), torch.log(a / (1 - a))),
        (schedule.alpha(t).double() ** 2 + schedule.sigma(t).double() ** 2, torch.ones_like(a)),
    ]:
        torch.testing.assert_close(got.double(), expected, rtol=2e-7, atol=2e-7)


def test_at_time_0_there_is_no_noise(schedule):
    assert schedule.alpha(0) == 1
    assert schedule.sigma(0) == 0
    assert schedule.snr(0) == schedule.log_snr(0) == math.inf


@pytest.mark.parametrize("name", ["alpha", "sigma", "snr", "log_snr"])
def test_coefficients_are_float32_in_the_shape_of_t(schedule, name):
    coefficient = getattr(schedule, name)
    t = torch.tensor([1, 500, 1000])
    assert coefficient(t).dtype == coefficient(7).dtype == torch.float32
    assert coefficient(t).shape == (3,)
    assert coefficient(7).shape == ()
    assert coefficient(t).tolist() == [coefficient(1), coefficient(500), coefficient(1000)]


@pytest.mark.parametrize("zero_snr", [False, True])
def test_coefficients_are_those_of_a_lookup_in_float64_to_the_bit(zero_snr):
    schedule = NoiseSchedule.named("cosine", T, zero_terminal_snr=zero_snr)
    a = schedule.alpha_bar
    of_float64 = {
        "alpha": a.sqrt(),
        "sigma": (1 - a).sqrt(),
        "snr": a / (1 - a),
        "log_snr": a.log() - (1 - a).log(),
    }
    t = torch.arange(T + 1).flip(0)
    for name, table in of_float64.items():
        look_up, expected = getattr(schedule, name), table[t].to(torch.float32)
        for _ in range(2):  # the second time from its own table
            assert torch.equal(look_up(t), expected), name
        one = torch.stack([look_up(int(each)) for each in t[::97]])
        assert torch.equal(one, expected[::97]), name
        assert torch.equal(look_up(t[0]), expected[0]), name
        look_up(5).fill_(torch.nan)  # a copy
        look_up(torch.tensor(5)).fill_(torch.nan)
        assert torch.equal(look_up(t), expected), name


def test_a_table_made_in_inference_mode_serves_a_training():
    schedule = NoiseSchedule.named("linear", T)
    with torch.inference_mode():
        schedule.alpha(3), schedule.sigma(3)
    x0 = torch.ones(2, 1, requires_grad=True)
    schedule.add_noise(x0, x0, 3).sum().backward()
    assert x0.grad is not None
    assert torch.equal(x0.grad, (schedule.alpha(3) + schedule.sigma(3)).expand(2, 1))


# ---- q(x_t | x_0) ---------------------------------------------------------------------------


def test_add_noise_is_equation_4_at_each_images_own_time(schedule):
    x0, eps = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    t = torch.tensor([1, 400, 1000])
    a = schedule.alpha_bar[t].reshape(3, 1, 1, 1)
    x_t = schedule.add_noise(x0, eps, t)
    torch.testing.assert_close(x_t, a.sqrt() * x0 + (1 - a).sqrt() * eps, rtol=0, atol=1e-6)
    for i in range(3):
        alone = schedule.add_noise(x0[i : i + 1], eps[i : i + 1], int(t[i]))
        assert torch.equal(alone, x_t[i : i + 1])


@pytest.mark.parametrize("t", [1, 2, 700, 1000])
def test_single_steps_in_a_row_are_one_step_of_alpha_bar(schedule, t):
    factor, variance = 1.0, 0.0
    for i in range(1, t + 1):
        beta = 1e-4 + (0.02 - 1e-4) * (i - 1) / (T - 1)
        factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
    assert factor == pytest.approx(schedule.alpha_bar[t].sqrt().item(), rel=1e-9)
    assert variance == pytest.approx(1 - schedule.alpha_bar[t].item(), rel=1e-9)
    assert schedule.alpha(t).item() == pytest.approx(factor, rel=1e-6)
    assert schedule.sigma(t).item() == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_adding_noise_at_time_0_changes_nothing(schedule):
    x0, eps = torch.randn(2, 3, 1, 4, 4)
    assert torch.equal(schedule.add_noise(x0, eps, 0), x0)


# ---- q(x_s | x_t, x_0) ----------------------------------------------------------------------


def conditional(schedule: NoiseSchedule, x0: float, x_t: float, t: int, s: int):
    """Mean and variance of x_s given x_t, by conditioning the joint Gaussian of both given x_0.

    x_s = √ᾱ_s x_0 + noise of variance 1−ᾱ_s, and x_t = r x_s + noise with r = √(ᾱ_t/ᾱ_s).
    """
    a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    r = math.sqrt(a_t / a_s)
    mean_s, var_s = math.sqrt(a_s) * x0, 1 - a_s
    mean_t, var_t, covariance = r * mean_s, r**2 * var_s + (1 - r**2), r * var_s
    mean = mean_s + covariance / var_t * (x_t - mean_t)
    return mean, var_s - covariance**2 / var_t


pairs_of_times = st.lists(st.integers(0, T), min_size=2, max_size=2, unique=True).map(sorted)
values = st.floats(-3, 3)


@given(times=pairs_of_times, x0=values, x_t=values)
def test_posterior_is_bayes_rule(schedule, times, x0, x_t):
    s, t = times
    mean, variance = schedule.posterior(float64(x0), float64(x_t), t, s)
    expected_mean, expected_variance = conditional(schedule, x0, x_t, t, s)
    assert mean.item() == pytest.approx(expected_mean, abs=1e-11)
    assert variance.item() == pytest.approx(expected_variance, rel=1e-8, abs=1e-15)


@given(times=st.lists(pairs_of_times, min_size=1, max_size=4))
def test_posterior_takes_a_time_for_each_image(schedule, times):
    s, t = torch.tensor(times).T
    shape = (len(times), 1, 2, 3)
    x0, x_t = torch.full(shape, 0.3).double(), torch.full(shape, -1.2).double()
    mean, variance = schedule.posterior(x0, x_t, t, s)
    assert mean.shape == shape
    assert variance.shape == (len(times), 1, 1, 1)
    for i in range(len(times)):
        alone = schedule.posterior(x0[i], x_t[i], int(t[i]), int(s[i]))
        torch.testing.assert_close((mean[i], variance[i].squeeze()), alone, rtol=0, atol=0)


@pytest.mark.parametrize("t", [1, 500, 1000])
def test_posterior_at_time_0_is_x_0_without_variance(schedule, t):
    x0, x_t = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    mean, variance = schedule.posterior(x0, x_t, t, 0)
    torch.testing.assert_close(mean, x0, rtol=1e-12, atol=0)
    assert variance == 0


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_posterior_from_one_time_to_the_next_is_equation_7(schedule, t):
    betas = [1e-4 + (0.02 - 1e-4) * i / (T - 1) for i in range(T)]  # β_t is betas[t − 1]
    beta_t, alpha_t = betas[t - 1], 1 - betas[t - 1]
    a_t, a_before = (math.prod(1 - beta for beta in betas[:n]) for n in (t, t - 1))
    of_x0, variance = schedule.posterior(float64(1), float64(0), t, t - 1)
    of_x_t, _ = schedule.posterior(float64(0), float64(1), t, t - 1)
    assert of_x0.item() == pytest.approx(math.sqrt(a_before) * beta_t / (1 - a_t), rel=1e-9)
    # √α_t, of this step alone: with √ᾱ_t, as some texts print, it is another number.
    right = math.sqrt(alpha_t) * (1 - a_before) / (1 - a_t)
    misprint = math.sqrt(a_t) * (1 - a_before) / (1 - a_t)
    assert of_x_t.item() == pytest.approx(right, rel=1e-9)
    assert of_x_t.item() != pytest.approx(misprint, rel=1e-5)
    assert variance.item() == pytest.approx((1 - a_before) / (1 - a_t) * beta_t, rel=1e-9)


@pytest.mark.parametrize(("t", "s"), [(2, 1), (500, 499), (1000, 100), (300, 0)])
def test_posterior_of_an_image_without_noise_stays_on_its_line(schedule, t, s):
    # x_t = √ᾱ_t x_0 is where x_t is expected, so x_s must be expected at √ᾱ_s x_0.
    a_t, a_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    mean, _ = schedule.posterior(float64(0.7), a_t.sqrt() * 0.7, t, s)
    torch.testing.assert_close(mean, a_s.sqrt() * float64(0.7), rtol=1e-12, atol=0)


# ---- the variance of a step -----------------------------------------------------------------


@given(times=pairs_of_times)
def test_variances_are_those_of_an_image_and_of_noise(schedule, times):
    s, t = times
    small, large = schedule.variances(t, s)
    a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    assert large.item() == pytest.approx(1 - a_t / a_s, rel=1e-9)
    if s > 0:
        assert small.item() == pytest.approx(conditional(schedule, 0, 0, t, s)[1], rel=1e-6)
    assert small.dtype == large.dtype == torch.float64
    assert 0 < small < large


def test_the_last_steps_small_variance_is_that_of_the_step_before(schedule):
    # From 1 to 0 the posterior has none; published code takes that from 2 to 1 for its logarithm.
    before = schedule.posterior(float64(0), float64(0), 2, 1)[1]
    assert schedule.variances(1, 0)[0].item() == before.item()
    assert schedule.variances(40, 0)[0] == schedule.variances(40, 1)[0]


def test_with_a_single_time_there_is_one_variance():
    small, large = NoiseSchedule(torch.tensor([0.3])).variances(1, 0)
    assert small == large == pytest.approx(0.3)


def test_variances_take_a_time_for_each_image(schedule):
    t, s = torch.tensor([1, 2, 700]), torch.tensor([0, 1, 3])
    each = torch.stack(schedule.variances(t, s))
    alone = [torch.stack(schedule.variances(int(a), int(b))) for a, b in zip(t, s, strict=True)]
    assert torch.equal(each, torch.stack(alone, dim=1))


# ---- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1, 0.0], "every β must lie between 0 and 1, but β_2 = 0"),
        ([1.0, 0.5], "every β must lie between 0 and 1, but β_1 = 1"),
        ([0.1, 0.2, -0.3], "every β must lie between 0 and 1, but β_3 = -0.3"),
        ([0.1, math.nan], "every β must lie between 0 and 1, but β_2 = nan"),
        ([], r"betas must be a list of T ≥ 1 numbers, not \(0,\)"),
        ([[0.1, 0.2]], r"betas must be a list of T ≥ 1 numbers, not \(1, 2\)"),
    ],
)
def test_impossible_betas_are_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(torch.tensor(betas))


def test_another_number_of_betas_than_steps_is_refused():
    with pytest.raises(ValueError, match=r"T is 3, but the custom schedule has 2 betas\. Give one"):
        NoiseSchedule.named("custom", 3, betas=[0.1, 0.2])


@pytest.mark.parametrize(
    ("t", "wrong"), [(-1, -1), (1001, 1001), (torch.tensor([3, -2, 1001]), -2)], ids=str
)
@pytest.mark.parametrize(
    "look_up",
    [
        lambda schedule, t: schedule.alpha(t),
        lambda schedule, t: schedule.log_snr(t),
        lambda schedule, t: schedule.add_noise(torch.zeros(3, 1), torch.zeros(3, 1), t),
        lambda schedule, t: schedule.posterior(torch.zeros(3, 1), torch.zeros(3, 1), t, 0),
        lambda schedule, t: schedule.posterior(torch.zeros(3, 1), torch.zeros(3, 1), 9, t),
        lambda schedule, t: schedule.variances(t, 0),
    ],
    ids=["alpha", "log_snr", "add_noise", "posterior from", "posterior to", "variances"],
)
def test_a_time_outside_of_the_process_is_refused(schedule, look_up, t, wrong):
    with pytest.raises(ValueError, match=rf"^t must lie in 0\.\.1000, not {wrong}$"):
        look_up(schedule, t)


@pytest.mark.parametrize(
    ("t", "s"), [(3, 3), (3, 4), (torch.tensor([9, 3]), 3), (3, torch.tensor([2, 3]))], ids=str
)
def test_a_step_that_leads_to_no_earlier_time_is_refused(schedule, t, s):
    x = torch.zeros(2, 1)
    for step in (lambda: schedule.posterior(x, x, t, s), lambda: schedule.variances(t, s)):
        with pytest.raises(
            ValueError, match=r"a step must lead to an earlier time, not from 3 to [34]"
        ):
            step()


def test_an_unknown_name_and_no_step_are_refused():
    with pytest.raises(ValueError, match=r"schedule 'cosin' is unknown; known: linear, .*cosine"):
        NoiseSchedule.named("cosin", 10)
    with pytest.raises(ValueError, match="T, the number of diffusion steps, must be at least 1"):
        NoiseSchedule.named("cosine", 0)


def test_a_bad_beta_is_named_before_the_snr_is_brought_to_zero():
    with pytest.raises(ValueError, match=r"but β_2 = 1\.2"):
        NoiseSchedule.named("custom", 2, betas=[0.1, 1.2], zero_terminal_snr=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_images_of_integers_are_refused(schedule, dtype):
    x0 = torch.full((2, 1, 2, 2), 200, dtype=dtype)
    with pytest.raises(
        ValueError, match=rf"images must be floating point, and these are {dtype}\."
    ):
        schedule.add_noise(x0, torch.randn(2, 1, 2, 2), 500)
