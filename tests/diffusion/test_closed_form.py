"""Data of which everything is known: with x_0 ~ N(m, C) the perfect denoiser is affine.

So is then every step of a sampler, also of one that remembers the steps before, and with it the
whole chain, x_s = M x_T + c + Σ_t N_t z_t: the mean and covariance of what it makes can be carried
along exactly, without drawing anything.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    Prediction,
    ddim,
    ddpm,
    dpmpp,
    dpmpp_sde,
    euler,
    heun,
    ipndm,
    sampling_timesteps,
    unipc,
)

D = 3
EYE = torch.eye(D, dtype=torch.float64)
ZERO = torch.zeros(D, dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0, 0], [0.5, 0.3, 0], [-0.2, 0.1, 0.8]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T  # correlated, its eigenvalues from 0.06 to 0.8

small, large = partial(ddpm, variance="small"), partial(ddpm, variance="large")


class Gaussian:
    """x_0 ~ N(m, C) as images (B,D,1,1): what x_t then is, and what it says about x_0."""

    def __init__(self, schedule: NoiseSchedule, mean: Tensor, covariance: Tensor) -> None:
        self.schedule, self.mean, self.covariance = schedule, mean, covariance

    def marginal(self, t: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x_t."""
        a = self.schedule.alpha_bar[t]
        return a.sqrt() * self.mean, a * self.covariance + (1 - a) * EYE

    def denoise(self, x_t: Tensor, t: int) -> Prediction:
        """E[x_0 | x_t] = m + α C (α² C + σ²)⁻¹ (x_t − α m)."""
        a = self.schedule.alpha_bar[t]
        mean_t, covariance_t = self.marginal(t)
        gain = a.sqrt() * torch.linalg.solve(covariance_t, self.covariance).T
        x0 = self.mean + (x_t[:, :, 0, 0] - mean_t) @ gain.T
        return Prediction("x0", x0[:, :, None, None], x_t, a.sqrt(), (1 - a).sqrt())

    def carried(self, sampler, times: list[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(s, mean, covariance) of x_s after each step, when x_T starts as it should.

        Probes go through the chain together: from 0, from each unit vector, and from 0 with one
        unit of noise in one direction at one time.
        """
        mean, covariance = self.marginal(times[0])
        starts = torch.cat([ZERO[None], EYE, EYE.new_zeros(len(times) * D, D)])[:, :, None, None]
        first = {t: 1 + D + i * D for i, t in enumerate(times)}  # of the D probes with noise at t

        def noise(t: int) -> Tensor:
            z = torch.zeros_like(starts)
            z[first[t] : first[t] + D, :, 0, 0] = EYE
            return z

        for step in sampler(self.denoise, self.schedule, starts, times, noise=noise):
            ends = step.x[:, :, 0, 0]
            shift, columns = ends[0], (ends[1:] - ends[0]).T  # (D, D + times·D)
            of_x_T, of_noise = columns[:, :D], columns[:, D:]
            yield (
                step.s,
                of_x_T @ mean + shift,
                of_x_T @ covariance @ of_x_T.T + of_noise @ of_noise.T,
            )


@pytest.fixture(scope="module")
def gaussian(schedule) -> Gaussian:
    return Gaussian(schedule, MEAN, COVARIANCE)


SAMPLERS = {
    "ddpm-small": small,
    "ddpm-large": large,
    "ddim-0": ddim,
    "ddim-0.5": partial(ddim, eta=0.5),
    "ddim-1": partial(ddim, eta=1.0),
    "euler": euler,
    "heun": heun,
    "heun-churn": partial(heun, churn=10.0),
    "ipndm": ipndm,
    "dpm++": dpmpp,
    "dpm++sde": dpmpp_sde,
    "unipc": unipc,
    "unipc-3": partial(unipc, order=3),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
each_number_of_steps = pytest.mark.parametrize("steps", [1, 7, 53, 250])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


# ---- what is exact at any number of steps ---------------------------------------------------


@each_number_of_steps
@each_sampler
def test_the_mean_is_exact(gaussian, schedule, sampler, steps):
    for s, mean, _ in gaussian.carried(sampler, sampling_timesteps(schedule, steps)):
        close(mean, gaussian.marginal(s)[0])


@each_number_of_steps
def test_for_standard_normal_data_the_large_variance_is_exact(schedule, steps):
    data = Gaussian(schedule, ZERO, EYE)
    times = sampling_timesteps(schedule, steps)
    *before, (s, _, last) = data.carried(large, times)
    for _, _, covariance in before:
        close(covariance, EYE)
    assert s == 0
    close(last, schedule.alpha_bar[times[-1]] * EYE)  # that of E[x_0 | x_t]: no noise at the end


@each_number_of_steps
@pytest.mark.parametrize(
    "sampler",
    [small, partial(ddim, eta=0.0), partial(ddim, eta=0.5), partial(ddim, eta=1.0)],
    ids=["ddpm-small", "ddim-0", "ddim-0.5", "ddim-1"],
)
def test_for_a_single_image_the_small_variance_and_every_eta_are_exact(schedule, sampler, steps):
    data = Gaussian(schedule, MEAN, 0 * EYE)
    for s, mean, covariance in data.carried(sampler, sampling_timesteps(schedule, steps)):
        close(mean, schedule.alpha_bar[s].sqrt() * MEAN)
        close(covariance, (1 - schedule.alpha_bar[s]) * EYE)


@each_number_of_steps
def test_ddim_turns_standard_normal_data_by_angles(schedule, steps):
    # With α = cos θ, σ = sin θ the prediction is x̂_0 = cos θ_t x_t, ε̂ = sin θ_t x_t.
    times = sampling_timesteps(schedule, steps)
    angles = [math.acos(math.sqrt(schedule.alpha_bar[t])) for t in [*times, 0]]
    factor = math.prod(math.cos(a - b) for a, b in pairwise(angles))
    *_, (_, _, covariance) = Gaussian(schedule, ZERO, EYE).carried(ddim, times)
    close(covariance, factor**2 * EYE)


# ---- what becomes exact with many steps -----------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "error_of_all_steps"),
    [(small, 0.011), (large, 0.001), (ddim, 0.005), (partial(ddim, eta=0.5), 0.006)],
    ids=["ddpm-small", "ddpm-large", "ddim-0", "ddim-0.5"],
)
def test_the_error_of_the_covariance_falls_at_first_order(
    gaussian, schedule, sampler, error_of_all_steps
):
    def error(steps: int) -> float:
        *_, (_, _, covariance) = gaussian.carried(sampler, sampling_timesteps(schedule, steps))
        return ((covariance - COVARIANCE).norm() / COVARIANCE.norm()).item()

    assert 1.75 < error(100) / error(200) < 2.1
    assert error(1000) < error_of_all_steps


# ---- drawn samples --------------------------------------------------------------------------

DRAWS = 100_000


def standard_errors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Those of mean and covariance of so many draws from a Gaussian."""
    variances = covariance.diag()
    of_covariance = (variances[:, None] * variances + covariance**2) / DRAWS
    return (variances / DRAWS).sqrt(), of_covariance.sqrt()


def assert_drawn_from(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Mean and every entry of the covariance within 3 standard errors. x: (draws, D, 1, 1)."""
    assert x.dtype == torch.float32
    x = x[:, :, 0, 0].double().T
    of_mean, of_covariance = standard_errors(covariance)
    assert ((x.mean(dim=1) - mean).abs() < 3 * of_mean).all()
    assert ((x.cov() - covariance).abs() < 3 * of_covariance).all()


@pytest.fixture
def drawn():
    """drawn(t): standard normal noise, float32, other noise at each call."""
    generator = np.random.default_rng(0)

    def noise(t: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal((DRAWS, D, 1, 1), dtype=np.float32))

    return noise


class PerfectNetwork(nn.Module):
    """v̂ in float32, for t one less than the denoiser's, and the variance of a step to `after[t]`.

    The raw second half is 2f − 1, f where log σ² lies between log β̃ and log β, of the true
    p(x_s | x_t): σ² = β̃ + (√ᾱ_s β/(1−ᾱ_t))² Var(x_0 | x_t). A diagonal C makes that exact.
    """

    def __init__(self, gaussian: Gaussian, after: dict[int, int]) -> None:
        super().__init__()
        self.gaussian, self.after = gaussian, after

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        t = int(index[0]) + 1
        a, C = self.gaussian.schedule.alpha_bar[t], self.gaussian.covariance
        mean, covariance = self.gaussian.marginal(t)
        # v̂ = α ε̂ − σ x̂_0 is affine: its slope, then its value at the mean of x_t
        slope = (a * (1 - a)).sqrt() * torch.linalg.solve(covariance, EYE - C)
        v_of_mean = -(1 - a).sqrt() * self.gaussian.mean
        v = (x_t[:, :, 0, 0] - mean.float()) @ slope.float() + v_of_mean.float()
        fraction = self.fraction(t).float().expand(len(x_t), D)
        return torch.cat([v, 2 * fraction - 1], dim=1)[:, :, None, None]

    def fraction(self, t: int) -> Tensor:
        """f of each number, (D,)."""
        s = self.after[t]
        if s == 0:
            return ZERO  # nothing is added
        a_t, a_s = self.gaussian.schedule.alpha_bar[[t, s]]
        least, most = self.gaussian.schedule.variances(t, s)
        C = self.gaussian.covariance.diag()
        of_x0 = C * (1 - a_t) / (a_t * C + 1 - a_t)  # Var(x_0 | x_t)
        exact = least + a_s * (most / (1 - a_t)).square() * of_x0
        return (exact / least).log() / (most / least).log()


def last_step(sampler, data: Gaussian, times: list[int], noise):
    """With the float32 denoiser of `data`, from its own x_T, which is nearly N(0, I)."""
    denoise = Denoiser(PerfectNetwork(data, dict(pairwise([*times, 0]))), data.schedule, "v")
    mean, covariance = data.marginal(times[0])
    x_T = noise(0)[:, :, 0, 0] @ torch.linalg.cholesky(covariance).T.float() + mean.float()
    *_, last = sampler(denoise, data.schedule, x_T[:, :, None, None], times, noise=noise)
    return last


@pytest.mark.parametrize(
    ("sampler", "covariance", "steps", "timesteps"),
    [
        (large, EYE, 20, "linspace"),
        (partial(ddpm, variance="learned"), COVARIANCE.diag().diag(), 20, "log_snr"),
        (dpmpp_sde, COVARIANCE, 100, "quadratic"),  # its error is 0.7 of a standard error
    ],
    ids=["ddpm-large", "ddpm-learned", "dpm++sde"],
)
def test_draws_have_the_mean_and_covariance_of_the_data(
    schedule, drawn, sampler, covariance, steps, timesteps
):
    # Large is exact for standard normal deviations, learned for a diagonal covariance.
    data = Gaussian(schedule, MEAN, covariance)
    times = sampling_timesteps(schedule, steps, timesteps)
    assert_drawn_from(last_step(sampler, data, times, drawn).x, MEAN, covariance)


@pytest.mark.parametrize(
    "sampler",
    [small, partial(ddim, eta=0.5), partial(ddim, eta=1.0)],
    ids=["ddpm-small", "ddim-0.5", "ddim-1"],
)
def test_draws_around_many_single_images_have_their_mean_and_covariance(schedule, drawn, sampler):
    # The small variance and every eta are exact for one image. Here each draw has its own, which
    # its denoiser knows: over all of them x_s has the mean and covariance of q(x_s).
    data = Gaussian(schedule, MEAN, COVARIANCE)
    own = (drawn(0)[:, :, 0, 0] @ ROOT.T.float() + MEAN.float())[:, :, None, None]

    def denoise(x_t: Tensor, t: int) -> Prediction:
        return Prediction("x0", own, x_t, schedule.alpha(t), schedule.sigma(t))

    times = sampling_timesteps(schedule, 20)
    x_T = schedule.add_noise(own, drawn(0), times[0])
    for step in sampler(denoise, schedule, x_T, times, noise=drawn):
        if step.s in (times[1], times[10], times[-1]):
            assert_drawn_from(step.x, *data.marginal(step.s))


@pytest.mark.parametrize(
    "name", ["ddpm-small", "ddpm-large", "ddim-0.5", "ddim-1", "dpm++sde", "dpm++"]
)
def test_draws_are_what_was_carried(gaussian, schedule, drawn, name):
    # With few steps the error is many standard errors, and it is the same by both ways.
    times = sampling_timesteps(schedule, 10)
    *_, (_, mean, covariance) = gaussian.carried(SAMPLERS[name], times)
    assert ((covariance - COVARIANCE).abs() > 10 * standard_errors(COVARIANCE)[1]).any()
    assert_drawn_from(last_step(SAMPLERS[name], gaussian, times, drawn).x, mean, covariance)


@pytest.mark.slow
def test_two_thousand_small_steps_err_by_less_than_so_many_draws_show():
    # Even steps of the angle whose cosine is α, as the cosine schedule has, err least here.
    data = Gaussian(NoiseSchedule.named("cosine", 2000), MEAN, COVARIANCE / 2 + EYE / 2)
    *_, (_, _, covariance) = data.carried(small, sampling_timesteps(data.schedule, 2000))
    standard_error = standard_errors(data.covariance)[1]
    assert ((covariance - data.covariance).abs() < standard_error).all()
