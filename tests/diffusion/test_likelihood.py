"""The variational bound, beside closed forms that know nothing of how it is computed."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    Prediction,
    bits_per_dimension,
    bound_term,
    prior_kl,
)
from fromnoise.diffusion.likelihood import log_cdf, log_level, strata, term_of
from fromnoise.diffusion.samplers import Variance

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

special, stats = pytest.importorskip("scipy.special"), pytest.importorskip("scipy.stats")

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
SHAPE = (4, 2, 3, 3)


class Guess(nn.Module):
    """Some smooth network with a learned variance."""

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        wave = torch.sin(2 * x_t + index[:, None, None, None] / 300)
        return torch.cat([wave, wave.flip(3)], dim=1)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, SHAPE, generator=generator).double() / 127.5 - 1


@pytest.fixture
def noise(fixed_noise):
    return fixed_noise(*SHAPE)


def at(noise):
    """The noise of images that share one t."""
    return lambda t: noise(int(t[0]))


each_variance = pytest.mark.parametrize("variance", ["small", "large", "learned"])


# ---- the mass of a grey level ---------------------------------------------------------------


def mass(mean: float, std: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """log of the mass of each of the 256 levels."""
    x0 = LEVELS.to(dtype).reshape(1, 1, 16, 16)
    return log_level(x0, torch.full_like(x0, mean), torch.tensor(std, dtype=dtype)).flatten()


@given(mean=st.floats(-3, 3), std=st.floats(1e-4, 10))
def test_the_masses_of_all_levels_add_up_to_1(mean, std):
    assert mass(mean, std).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert mass(mean, std, torch.float32).exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("std", [0.005, 0.03, 0.4, 2.0])
def test_a_mass_is_a_difference_of_scipys_distribution_functions(std):
    below, above = LEVELS.numpy() - 1 / 255, LEVELS.numpy() + 1 / 255
    below[0], above[-1] = -math.inf, math.inf
    for mean in (-1.3, -1.0, -0.2, 0.0, 0.501, 1.0):
        left = stats.norm.cdf(above, mean, std) - stats.norm.cdf(below, mean, std)
        right = stats.norm.sf(below, mean, std) - stats.norm.sf(above, mean, std)
        expected = np.where(LEVELS.numpy() < mean, left, right)  # each is exact in its own tail
        seen = expected > 1e-290
        assert seen.any()
        got = mass(mean, std).exp().numpy()
        np.testing.assert_allclose(got[seen], expected[seen], rtol=1e-9, err_msg=str(mean))
        single = mass(mean, std, torch.float32).numpy()
        np.testing.assert_allclose(single[seen], np.log(expected[seen]), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [-40.0, 40.0])
def test_a_mass_too_small_for_any_number_has_a_logarithm(mean, dtype):
    # 4000 standard deviations away: of the interval, all that counts is its nearer end.
    got = mass(mean, 0.01, dtype)
    assert got.isfinite().all()
    nearer = LEVELS - math.copysign(1, LEVELS[0] - mean) / 255
    expected = torch.special.log_ndtr(-(nearer - mean).abs() / 0.01)
    torch.testing.assert_close(got.double()[1:-1], expected[1:-1], rtol=1e-6, atol=0)


def slopes(x0: Tensor, mean: Tensor, std: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(φ(l) − φ(u), lφ(l) − uφ(u)) / (std·mass): the derivatives by mean and std, elementwise."""
    x, m, s = (part.detach().double().numpy() for part in (x0, mean, std))
    lower = np.where(x < -0.999, -1e8, (x - 1 / 255 - m) / s)  # 1e8 stands for infinity
    upper = np.where(x > 0.999, 1e8, (x + 1 / 255 - m) / s)
    right = lower + upper > 0
    a, b = np.where(right, -upper, lower), np.where(right, -lower, upper)
    log_mass = special.log_ndtr(b) + np.log(-np.expm1(special.log_ndtr(a) - special.log_ndtr(b)))
    of_l, of_u = (np.exp(stats.norm.logpdf(end) - log_mass) / s for end in (lower, upper))
    return of_l - of_u, lower * of_l - upper * of_u


def test_the_gradient_of_a_mass_is_right_and_always_a_number():
    x0 = torch.tensor([-1.0, -0.6, 0, 0.2, 1]).double().mul(127.5).round().div(127.5)
    x0 = x0.reshape(1, 1, 1, 5)
    mean = torch.tensor([-0.99, -0.58, 0, 0.3, 0.9]).double().reshape(x0.shape).requires_grad_()
    std = torch.full_like(x0, 0.04).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: log_level(x0, m, s), (mean, std))
    near = itertools.product((-30.0, 0.0, 30.0), (1e-3, 0.1, 30.0, 1e9))
    for dtype in (torch.float32, torch.float64):
        for far, width in [*near, (-1400.0, 0.14), (1400.0, 0.14)]:
            level = x0.to(dtype)
            mean = torch.full_like(level, far).requires_grad_()
            std = torch.full_like(level, width).requires_grad_()
            log_level(level, mean, std).sum().backward()
            for got, expected in zip((mean, std), slopes(level, mean, std), strict=True):
                exact = torch.from_numpy(expected).to(dtype)
                torch.testing.assert_close(got.grad, exact, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_logarithm_of_the_distribution_function_has_a_slope_in_any_tail(dtype, rtol):
    ends = [-1e6, -1e4, -30.0, -8.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 3.0, 8.0, 1e6]
    z = torch.tensor(ends, dtype=dtype, requires_grad=True)
    got = log_cdf(z)
    (grad,) = torch.autograd.grad(got.sum(), z)
    points = z.detach().double().numpy()
    np.testing.assert_allclose(got.detach(), special.log_ndtr(points), rtol=rtol, atol=0)
    slope = math.sqrt(2 / math.pi) / special.erfcx(-points / math.sqrt(2))
    np.testing.assert_allclose(grad, slope, rtol=rtol, atol=0)


# ---- one term -------------------------------------------------------------------------------


def bayes(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: int) -> Normal:
    """q(x_{t−1} | x_t, x_0) as a product of two densities of x_{t−1}: precisions add."""
    a_s, r = schedule.alpha_bar[t - 1], schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]
    of_x0, of_x_t = 1 / (1 - a_s), r / (1 - r)
    mean = (of_x0 * a_s.sqrt() * x0 + of_x_t * x_t / r.sqrt()) / (of_x0 + of_x_t)
    return Normal(mean, (of_x0 + of_x_t).rsqrt().expand_as(mean))


def per_dimension(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(dim=1) / math.log(2)


@each_variance
@pytest.mark.parametrize("t", [2, 3, 400, 1000])
def test_a_term_is_the_divergence_of_two_gaussians(schedule, images, noise, t, variance):
    x_t = schedule.add_noise(images, noise(t), t)
    denoiser = Denoiser(Guess(), schedule)
    prediction = denoiser(x_t, t)
    q = bayes(schedule, images, x_t, t)
    beta = 1 - schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]
    std = {
        "small": q.stddev,
        "large": beta.sqrt(),
        "learned": (prediction.fraction * beta.log() / 2).exp()
        * q.stddev ** (1 - prediction.fraction),
    }[variance]
    p = Normal(bayes(schedule, prediction.x0, x_t, t).mean, std)
    expected = per_dimension(kl_divergence(q, p))
    got = bound_term(denoiser, images, noise(t), t, variance=variance)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)
    single = bound_term(denoiser, images.float(), noise(t).float(), t, variance=variance)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=2e-4, atol=1e-7)


@each_variance
def test_the_term_of_time_1_is_that_of_the_grey_levels(schedule, images, noise, variance):
    denoiser = Denoiser(Guess(), schedule)
    prediction = denoiser(schedule.add_noise(images, noise(1), 1), 1)
    beta, least = 1 - schedule.alpha_bar[1], bayes(schedule, images, images, 2).variance.mean()
    fraction = prediction.fraction if variance == "learned" else 0.0
    std = (beta**fraction * least ** (1 - fraction)).sqrt()
    upper = torch.where(images == 1, math.inf, (images + 1 / 255 - prediction.x0) / std)
    lower = torch.where(images == -1, -math.inf, (images - 1 / 255 - prediction.x0) / std)
    on_the_right = lower > 0
    a = torch.where(on_the_right, -upper, lower).numpy()
    b = torch.where(on_the_right, -lower, upper).numpy()
    probability = torch.from_numpy(special.ndtr(b) - special.ndtr(a))
    got = bound_term(denoiser, images, noise(1), 1, variance=variance)
    torch.testing.assert_close(got, per_dimension(-probability.log()), rtol=1e-8, atol=0)


@each_variance
def test_times_may_be_mixed(schedule, images, noise, variance):
    denoiser, eps, t = Denoiser(Guess(), schedule), noise(0), torch.tensor([1, 2, 500, 1])
    together = bound_term(denoiser, images, eps, t, variance=variance)
    alone = [
        bound_term(denoiser, images[i, None], eps[i, None], int(t[i]), variance=variance)
        for i in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=0)


def test_a_perfect_prediction_with_the_posteriors_variance_costs_nothing(schedule, images):
    one = torch.ones((), dtype=torch.float64)
    prediction = Prediction("x0", images, images, one, one)
    assert term_of(prediction, schedule, images, 500).tolist() == [0] * 4


def test_the_condition_reaches_the_network(schedule, images, noise):
    class OfCondition(nn.Module):
        def forward(self, x_t, index, cond):
            return cond[:, :1, None, None] * x_t

    cond = torch.tensor([[0.1], [0.2], [0.3], [0.4]], dtype=torch.float64)
    denoiser = Denoiser(OfCondition(), schedule)
    together = bound_term(denoiser, images, noise(7), 7, cond)
    assert len({round(term, 6) for term in together.tolist()}) == 4
    short = NoiseSchedule(1 - schedule.alpha_bar[1:8] / schedule.alpha_bar[:7])
    whole = bits_per_dimension(
        Denoiser(OfCondition(), short), images, cond, noise=at(noise), clamp=False
    )
    torch.testing.assert_close(whole.terms[:, 6], together, rtol=1e-6, atol=0)


@pytest.mark.parametrize("t", [0, -1, 1001])
def test_a_time_without_a_term_is_refused(schedule, images, noise, t):
    with pytest.raises(ValueError, match=r"t must lie in [01]\.\.1000"):
        bound_term(Denoiser(Guess(), schedule), images, noise(0), t)


# ---- the prior ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("T", [1, 10, 1000])
def test_the_prior_term_is_the_divergence_from_the_standard_normal(images, name, T):
    schedule = NoiseSchedule.named(name, T)
    a = schedule.alpha_bar[-1]
    q = Normal(a.sqrt() * images, (1 - a).sqrt().expand_as(images))
    expected = per_dimension(kl_divergence(q, Normal(torch.zeros_like(images), 1.0)))
    torch.testing.assert_close(prior_kl(schedule, images), expected, rtol=1e-7, atol=1e-14)
    single = prior_kl(schedule, images.float())
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-10)


# ---- Gaussian data, of which every term is known in the mean --------------------------------

ROOT = torch.tensor([[0.6, 0, 0], [0.5, 0.3, 0], [-0.2, 0.1, 0.8]], dtype=torch.float64)
CASES = {"standard normal": torch.eye(3, dtype=torch.float64), "correlated": ROOT @ ROOT.T}
each_case = pytest.mark.parametrize("covariance", CASES.values(), ids=CASES)
TERMS = (2, 3, 30, 500, 1000)


class Exact(nn.Module):
    """E[x_0 | x_t] for x_0 ~ N(0, C), images (B,3,1,1)."""

    def __init__(self, schedule: NoiseSchedule, covariance: Tensor) -> None:
        super().__init__()
        self.schedule, self.covariance = schedule, covariance

    def posterior(self, t: int) -> tuple[Tensor, Tensor]:
        """The gain and the covariance of x_0 given x_t, from the precisions."""
        a = self.schedule.alpha_bar[t]
        eye = torch.eye(3, dtype=torch.float64)
        covariance = torch.linalg.inv(torch.linalg.inv(self.covariance) + a / (1 - a) * eye)
        return covariance * a.sqrt() / (1 - a), covariance

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        gain, _ = self.posterior(int(index[0]) + 1)
        return (x_t[:, :, 0, 0] @ gain.T)[:, :, None, None]


def means(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Points (x_0, ε) over which a polynomial of degree 2 has exactly its Gaussian mean."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=torch.float64)
    x0 = signs[:, :3] @ torch.linalg.cholesky(covariance).T
    return x0[:, :, None, None], signs[:, 3:, None, None]


@pytest.mark.parametrize("t", TERMS)
def test_for_standard_normal_data_a_term_is_the_information_lost_in_a_step(schedule, t):
    # With `large` the model is exact, and E L_{t−1} = I(x_0; x_{t−1}) − I(x_0; x_t).
    x0, eps = means(CASES["standard normal"])
    denoiser = Denoiser(Exact(schedule, CASES["standard normal"]), schedule, "x0")
    a = schedule.alpha_bar
    expected = math.log((1 - a[t]) / (1 - a[t - 1])) / 2 / math.log(2)
    got = bound_term(denoiser, x0, eps, t, variance="large").mean().item()
    assert got == pytest.approx(expected, rel=1e-5)


def test_for_standard_normal_data_the_prior_term_is_what_noise_has_left(schedule):
    x0, _ = means(CASES["standard normal"])
    expected = -math.log1p(-schedule.alpha_bar[-1]) / 2 / math.log(2)
    assert prior_kl(schedule, x0).mean().item() == pytest.approx(expected, rel=1e-6)


@each_case
@pytest.mark.parametrize("t", TERMS)
def test_with_the_small_variance_a_term_is_the_error_times_the_fall_of_the_snr(
    schedule, covariance, t
):
    # E L_{t−1} = ½ (SNR_{t−1} − SNR_t) E‖x_0 − x̂_0‖² (Kingma et al. 2021, arXiv:2107.00630).
    network = Exact(schedule, covariance)
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    error = network.posterior(t)[1].trace() / 3
    expected = ((snr[t - 1] - snr[t]) * error / 2 / math.log(2)).item()
    x0, eps = means(covariance)
    got = bound_term(Denoiser(network, schedule, "x0"), x0, eps, t).mean().item()
    assert got == pytest.approx(expected, rel=1e-5)


# ---- Gaussian grey levels, of which the entropy and every term are known ---------------------


class Pixels(nn.Module):
    """E[x_0 | x_t] and the true variance of a step, for pixels x_0 ~ N(mean, std²), independent."""

    def __init__(self, schedule: NoiseSchedule, mean: float, std: float) -> None:
        super().__init__()
        self.schedule, self.mean, self.std = schedule, mean, std

    def left(self, t: Tensor) -> Tensor:
        """The variance of x_0 given x_t: precisions add."""
        a = self.schedule.alpha_bar[t]
        return 1 / (1 / self.std**2 + a / (1 - a))

    def step(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """β̃, β and the true variance of x_{t−1} given x_t: β̃ and what x_0 is unknown by."""
        a_t, a_s = self.schedule.alpha_bar[t], self.schedule.alpha_bar[t - 1]
        beta = 1 - a_t / a_s
        of_x0 = a_s.sqrt() * beta / (1 - a_t)
        posterior = (1 - a_s) / (1 - a_t) * beta
        return posterior, beta, posterior + of_x0**2 * self.left(t)

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        t = index + 1
        a, left = self.schedule.alpha_bar[t], self.left(t)
        of_x_t = (left * a.sqrt() / (1 - a)).reshape(-1, 1, 1, 1)
        of_mean = (left / self.std**2).reshape(-1, 1, 1, 1)
        low, high = self.step(t.clamp(min=2))[0], self.step(t)[1]
        fraction = (self.step(t)[2] / low).log() / (high / low).log()
        raw = (2 * fraction - 1).reshape(-1, 1, 1, 1).expand_as(x_t)
        return torch.cat([of_x_t * x_t + of_mean * self.mean, raw], dim=1)

    def information(self, t: int) -> float:
        """I(x_0; x_t) in bits."""
        return math.log2(self.std**2 / self.left(torch.tensor(t)).item()) / 2

    def expected_terms(self, variance: Variance) -> Tensor:
        """E L_{t−1} for t = 1..T, in bits: (T,). L_0 is near: a level adds its variance to σ²."""
        t = torch.arange(1, self.schedule.T + 1)
        posterior, beta, true = self.step(t)
        low = self.step(t.clamp(min=2))[0]
        std2 = {"small": low, "large": torch.where(t == 1, low, beta), "learned": true}[variance]
        nats = ((std2 / posterior).log() + true / std2 - 1) / 2
        width2 = std2[0] + (2 / 255) ** 2 / 12
        nats[0] = ((2 * math.pi * width2).log() + true[0] / width2) / 2 - math.log(2 / 255)
        return nats / math.log(2)


def gaussian_levels(mean: float, std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (x_0, ε), (M,1,1,1), and weights (M,) for means over the levels and all noise."""
    share = mass(mean, std).exp()
    seen = share > 1e-9
    nodes, weights = (torch.from_numpy(part) for part in special.roots_hermitenorm(8))
    weight = torch.outer(share[seen], weights / weights.sum()).flatten()
    x0 = LEVELS[seen].repeat_interleave(8)
    eps = nodes.repeat(int(seen.sum()))
    return x0.reshape(-1, 1, 1, 1), eps.reshape(-1, 1, 1, 1), weight / weight.sum()


def entropy(mean: float, std: float) -> float:
    """That of the levels, in bits: E[−log2 P(level)]."""
    share = mass(mean, std).exp()
    return -torch.special.xlogy(share, share).sum().item() / math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variance", "mean", "std"),
    [
        ("learned", 0.1, 0.2),
        pytest.param("learned", -0.3, 0.05, marks=pytest.mark.slow),
        ("small", 0.1, 0.2),
        pytest.param("large", -0.3, 0.05, marks=pytest.mark.slow),
    ],
)
def test_of_gaussian_levels_every_part_of_the_bound_is_known(schedule, variance, mean, std):
    x0, eps, weight = gaussian_levels(mean, std)
    square = (weight @ (x0.flatten() - mean) ** 2).item()  # a little more than std²
    network = Pixels(schedule, mean, math.sqrt(square))
    bound = bits_per_dimension(
        Denoiser(network, schedule, "x0"), x0, noise=lambda t: eps, variance=variance
    )
    terms, truth = weight @ bound.terms, entropy(mean, std)
    total, prior = (weight @ bound.total).item(), (weight @ bound.L_T).item()
    expected = network.expected_terms(variance)

    a = schedule.alpha_bar[-1].item()
    known = (a * (mean**2 + square) - a - math.log1p(-a)) / 2 / math.log(2)
    assert prior == pytest.approx(known, rel=1e-6)
    torch.testing.assert_close(terms[1:], expected[1:], rtol=1e-4, atol=1e-7)
    assert terms[0].item() == pytest.approx(expected[0].item(), abs=1e-3)
    assert total == pytest.approx(prior + expected.sum().item(), abs=2e-3)
    if variance == "learned":  # the true steps: the whole is what the levels take, and no less
        left = network.information(1) - network.information(schedule.T)
        assert terms[1:].sum().item() == pytest.approx(left, abs=1e-4)
        assert terms[0].item() == pytest.approx(truth - network.information(1), abs=2e-3)
        assert truth < total < truth + 0.005
    else:  # steps that are narrower or wider than the true ones cost a good part of a bit
        assert total > truth + 0.1


@pytest.mark.slow
def test_of_correlated_gaussian_levels_the_bound_is_their_entropy(schedule):
    # But for what it costs that a step is independent in each pixel, where the true one is not.
    covariance, cost = CASES["correlated"] / 16, 0.0

    class Learned(Exact):
        def step(self, t):
            """β̃, β and the true covariance of x_{t−1} given x_t."""
            a_t, a_s = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
            beta = 1 - a_t / a_s
            posterior, of_x0 = (1 - a_s) / (1 - a_t) * beta, a_s.sqrt() * beta / (1 - a_t)
            eye = torch.eye(3, dtype=torch.float64)
            return posterior, beta, posterior * eye + of_x0**2 * self.posterior(t)[1]

        def forward(self, x_t, index, cond):
            t = int(index[0]) + 1
            (low, _, _), (_, high, true) = self.step(max(t, 2)), self.step(t)
            raw = 2 * (true.diagonal() / low).log() / (high / low).log() - 1  # (3,)
            mean = super().forward(x_t, index, cond)
            return torch.cat([mean, raw[:, None, None].expand_as(mean)], dim=1)

    network = Learned(schedule, covariance)
    denoiser = Denoiser(network, schedule, "x0")
    for t in range(1, schedule.T + 1):
        true = network.step(t)[2]
        cost += ((true.diagonal().log().sum() - torch.logdet(true)) / 6 / math.log(2)).item()

    x0, eps = means(covariance)
    whole = bits_per_dimension(denoiser, x0, noise=lambda t: eps, variance="learned")
    # L_0 is no polynomial, and is one of levels only: some images, and all noise on a grid.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, generator=generator).double() @ torch.linalg.cholesky(covariance).T
    levels = ((x + 1) * 127.5).round() / 127.5 - 1
    nodes, weights = (torch.from_numpy(part) for part in special.roots_hermitenorm(6))
    eps = torch.cartesian_prod(nodes, nodes, nodes).repeat(100, 1)[:, :, None, None]
    weight = torch.cartesian_prod(weights, weights, weights).prod(dim=1).repeat(100)
    images = levels.repeat_interleave(len(nodes) ** 3, dim=0)[:, :, None, None]
    last = weight @ bound_term(denoiser, images, eps, 1, variance="learned") / weight.sum()

    total = ((whole.L_T + whole.terms[:, 1:].sum(dim=1)).mean() + last).item()
    nats = torch.logdet(2 * math.pi * math.e * covariance) / 2 - 3 * math.log(2 / 255)
    truth = (nats / 3 / math.log(2)).item()
    assert total == pytest.approx(truth + cost, abs=2e-3)
    assert 0.001 < cost < 0.01


# ---- two grey levels, of which the entropy is known -----------------------------------------

SHARE = 0.3  # of white
ENTROPY = -(SHARE * math.log2(SHARE) + (1 - SHARE) * math.log2(1 - SHARE))


class BlackOrWhite(nn.Module):
    """E[x_0 | x_t] of pixels that are 1 with probability SHARE, else −1."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        a = self.schedule.alpha_bar[index + 1].reshape(-1, 1, 1, 1)
        return torch.tanh(a.sqrt() / (1 - a) * x_t + math.log(SHARE / (1 - SHARE)) / 2)


def expected_bound(T: int) -> float:
    """E[total] over both levels and all ε, the latter a sum over a fine grid."""
    log_snr = torch.linspace(14, -10, T, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(log_snr)])
    schedule = NoiseSchedule(1 - alpha_bar[1:] / alpha_bar[:-1])
    grid = torch.linspace(-8, 8, 161, dtype=torch.float64)
    density = torch.exp(-(grid**2) / 2)
    weight = torch.cat([SHARE * density, (1 - SHARE) * density]) / density.sum()
    x0 = torch.tensor([1.0, -1.0]).double().repeat_interleave(161).reshape(-1, 1, 1, 1)
    eps = grid.repeat(2).reshape(-1, 1, 1, 1)
    denoiser = Denoiser(BlackOrWhite(schedule), schedule, "x0")
    return (weight @ bits_per_dimension(denoiser, x0, noise=lambda t: eps).total).item()


@pytest.mark.slow
def test_the_bound_lies_above_the_entropy_and_meets_it_with_many_steps():
    gaps = [expected_bound(T) - ENTROPY for T in (100, 200, 400, 800)]
    assert all(gap > 0 for gap in gaps)
    for few, many in itertools.pairwise(gaps):
        assert many == pytest.approx(few / 2, rel=0.1)
    assert gaps[-1] < 0.015


# ---- the whole ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short() -> NoiseSchedule:
    return NoiseSchedule.named("linear", 7, beta_1=0.02, beta_T=0.7)


@each_variance
def test_the_whole_is_the_sum_of_its_terms(short, images, noise, variance):
    denoiser = Denoiser(Guess(), short)
    free = bits_per_dimension(denoiser, images, noise=at(noise), variance=variance, clamp=False)
    assert free.terms.shape == (4, 7)
    for t in range(1, 8):
        term = bound_term(denoiser, images, noise(t), t, variance=variance)
        torch.testing.assert_close(free.terms[:, t - 1], term, rtol=0, atol=0)
    assert torch.equal(free.L_T, prior_kl(short, images))
    torch.testing.assert_close(free.total, free.L_T + free.terms.sum(dim=1))
    assert (free.terms > 0).all()


def test_a_clamped_x0_bounds_better(short, images, noise):
    denoiser = Denoiser(Guess(), short)
    clamped = bits_per_dimension(denoiser, images, noise=at(noise))
    free = bits_per_dimension(denoiser, images, noise=at(noise), clamp=False)
    assert (clamped.terms <= free.terms).all()
    assert (clamped.total < free.total).all()


def test_no_graph_is_kept(short, images, noise):
    class Learns(Guess):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x_t, index, cond):
            return self.scale * super().forward(x_t, index, cond)

    assert not bits_per_dimension(
        Denoiser(Learns(), short), images, noise=at(noise)
    ).total.requires_grad


def test_a_variance_that_was_not_learned_is_refused(short, images, noise):
    denoiser = Denoiser(BlackOrWhite(short), short, "x0")
    with pytest.raises(ValueError, match="this network predicts none"):
        bits_per_dimension(denoiser, images, noise=at(noise), variance="learned")


# ---- the estimate from few times ------------------------------------------------------------


@given(name=st.sampled_from(["linear", "cosine"]), T=st.integers(2, 300), share=st.floats(0, 1))
def test_strata_cover_every_time_once(name, T, share):
    schedule = NoiseSchedule.named(name, T)
    parts = strata(schedule, count := 2 + round(share * (T - 2)))
    assert len(parts) == count
    assert parts[0] == range(1, 2)
    assert [t for part in parts for t in part] == list(range(1, T + 1))
    assert all(parts)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("count", [2, 10, 40, 200])
def test_no_stratum_of_many_times_has_much_more_than_its_share(name, count):
    schedule = NoiseSchedule.named(name, 1000)
    level = (1 - schedule.alpha_bar).log()
    even = (level[-1] - level[1]) / (count - 1)
    for part in strata(schedule, count):
        assert len(part) == 1 or level[part[-1]] - level[part[0] - 1] < 1.3 * even


@pytest.mark.parametrize(("T", "count"), [(1, 2), (1, 0), (7, 1), (7, 8)])
def test_a_number_of_strata_that_cannot_be_is_refused(T, count):
    betas = torch.full((T,), 0.1)
    with pytest.raises(ValueError, match=rf"number of strata must lie in {min(2, T)}\.\.{T}"):
        strata(NoiseSchedule(betas), count)


@pytest.mark.parametrize("clamp", [False, True])
def test_with_a_stratum_for_each_time_nothing_is_estimated(short, images, noise, clamp):
    denoiser = Denoiser(Guess(), short)
    whole = bits_per_dimension(denoiser, images, noise=at(noise), variance="learned", clamp=clamp)
    estimate = bits_per_dimension(
        denoiser,
        images,
        uniform=torch.rand(4, 7, generator=torch.Generator().manual_seed(0)),
        noise=at(noise),
        variance="learned",
        clamp=clamp,
    )
    torch.testing.assert_close(estimate.terms, whole.terms, rtol=1e-12, atol=0)
    torch.testing.assert_close(estimate.total, whole.total, rtol=1e-12, atol=0)
    assert torch.equal(estimate.L_T, whole.L_T)


def test_each_image_has_a_time_of_its_own_in_each_stratum(schedule, images):
    class Remembers(Guess):
        def forward(self, x_t, index, cond):
            seen.append((index + 1).tolist())
            return super().forward(x_t, index, cond)

    def noise(t):
        drawn.append(t.tolist())
        return torch.zeros_like(images)

    seen, drawn = [], []
    uniform = torch.tensor([[0.0] * 6, [1 - 2**-24] * 6, [0.5] * 6, [0.1] * 6])
    estimate = bits_per_dimension(
        Denoiser(Remembers(), schedule), images, uniform=uniform, noise=noise
    )
    assert seen == drawn
    expected = [[part[0], part[-1], part[len(part) // 2]] for part in estimate.strata]
    assert [times[:3] for times in seen] == expected
    assert len(set(seen[-1])) == 4


@pytest.mark.parametrize("count", [2, 5, 20])
def test_the_mean_of_many_estimates_is_the_whole_bound(count):
    schedule = NoiseSchedule.named("cosine", 100)
    network = Pixels(schedule, 0.1, 0.2)
    x0, eps, weight = gaussian_levels(0.1, 0.2)
    denoiser = Denoiser(network, schedule, "x0")
    generator = torch.Generator().manual_seed(count)
    drawn = torch.multinomial(weight, 20_000, replacement=True, generator=generator)
    estimate = bits_per_dimension(
        denoiser,
        x0[drawn],
        uniform=torch.rand(len(drawn), count, generator=generator),
        noise=lambda t: torch.randn(len(t), 1, 1, 1, generator=generator).double(),
    )
    expected = network.expected_terms("small")
    expected[0] = weight @ bound_term(denoiser, x0, eps, 1)
    sums = torch.stack([expected[part[0] - 1 : part[-1]].sum() for part in estimate.strata])
    for got, known in [
        (estimate.total, weight @ prior_kl(schedule, x0) + sums.sum()),
        *zip(estimate.terms.unbind(dim=1), sums, strict=True),
    ]:
        error = got.std() / len(got) ** 0.5
        assert abs(got.mean() - known) < 3 * error + 1e-3 * known
