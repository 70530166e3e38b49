"""Data of which everything is known: with x_0 ~ N(m, C) the perfect denoiser is affine.

So is then every step of a sampler, x_s = M x_t + c + std·z, and the mean and covariance of what
a whole chain makes can be carried along exactly, without drawing anything.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fromnoise.diffusion import Denoiser, NoiseSchedule, Prediction, ddim, ddpm, sampling_times

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
        """(s, mean, covariance) of x_s after each step, when x_T starts as it should."""
        mean, covariance = self.marginal(times[0])
        probes = torch.cat([ZERO[None], EYE])[:, :, None, None]
        for t, s in pairwise([*times, 0]):
            kept = [t, s] if s else [t]

            def step(z: float, t=t, kept=kept) -> Tensor:
                noise = torch.full_like(probes, z)
                steps = sampler(self.denoise, self.schedule, probes, kept, noise=lambda t: noise)
                return next(steps).x[:, :, 0, 0]  # (1+D, D)

            shift, *columns = step(0)
            matrix = torch.stack(columns, dim=1) - shift[:, None]
            std = (step(1) - step(0))[0, 0]
            mean = matrix @ mean + shift
            covariance = matrix @ covariance @ matrix.T + std**2 * EYE
            yield s, mean, covariance


@pytest.fixture(scope="module")
def gaussian(schedule) -> Gaussian:
    return Gaussian(schedule, MEAN, COVARIANCE)


each_sampler = pytest.mark.parametrize(
    "sampler",
    [small, large, partial(ddim, eta=0.0), partial(ddim, eta=0.5)],
    ids=["ddpm-small", "ddpm-large", "ddim-0", "ddim-0.5"],
)
each_number_of_steps = pytest.mark.parametrize("steps", [1, 7, 53, 1000])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


# ---- what is exact at any number of steps ---------------------------------------------------


@each_number_of_steps
@each_sampler
def test_the_mean_is_exact(gaussian, schedule, sampler, steps):
    for s, mean, _ in gaussian.carried(sampler, sampling_times(schedule, steps)):
        close(mean, gaussian.marginal(s)[0])


@each_number_of_steps
def test_for_standard_normal_data_the_large_variance_is_exact(schedule, steps):
    data = Gaussian(schedule, ZERO, EYE)
    times = sampling_times(schedule, steps)
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
    for s, mean, covariance in data.carried(sampler, sampling_times(schedule, steps)):
        close(mean, schedule.alpha_bar[s].sqrt() * MEAN)
        close(covariance, (1 - schedule.alpha_bar[s]) * EYE)


@each_number_of_steps
def test_ddim_turns_standard_normal_data_by_angles(schedule, steps):
    # With α = cos θ, σ = sin θ the prediction is x̂_0 = cos θ_t x_t, ε̂ = sin θ_t x_t.
    times = sampling_times(schedule, steps)
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
        *_, (_, _, covariance) = gaussian.carried(sampler, sampling_times(schedule, steps))
        return ((covariance - COVARIANCE).norm() / COVARIANCE.norm()).item()

    assert 1.75 < error(100) / error(200) < 2.1
    assert error(1000) < error_of_all_steps


# ---- drawn samples --------------------------------------------------------------------------


class PerfectNetwork(nn.Module):
    """ε̂ = σ_t (α² C + σ²)⁻¹ (x_t − α m), in float32, for t one less than the denoiser's."""

    def __init__(self, gaussian: Gaussian) -> None:
        super().__init__()
        self.gaussian = gaussian

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        t = int(index[0]) + 1
        mean, covariance = self.gaussian.marginal(t)
        inverse = torch.linalg.inv(covariance).float()
        sigma = (1 - self.gaussian.schedule.alpha_bar[t]).sqrt().float()
        return sigma * ((x_t[:, :, 0, 0] - mean.float()) @ inverse)[:, :, None, None]


@each_sampler
def test_a_thousand_steps_recover_mean_and_covariance(gaussian, schedule, sampler):
    n = 20_000
    generator = torch.Generator().manual_seed(0)

    def noise(t: int) -> Tensor:
        return torch.randn(n, D, 1, 1, generator=generator)

    denoise = Denoiser(PerfectNetwork(gaussian), schedule)
    *_, last = sampler(denoise, schedule, noise(1001), sampling_times(schedule, 1000), noise=noise)
    x = last.x[:, :, 0, 0].double().T  # (D, n)

    variances = COVARIANCE.diag()
    of_mean = (variances / n).sqrt()
    of_covariance = ((variances[:, None] * variances + COVARIANCE**2) / n).sqrt()
    assert ((x.mean(dim=1) - MEAN).abs() < 4 * of_mean).all()
    assert ((x.cov() - COVARIANCE).abs() < 4 * of_covariance).all()
