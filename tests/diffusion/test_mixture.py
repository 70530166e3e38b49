"""A mixture of two Gaussians in the plane: how much is in either, and where, is kept.

Its E[x_0 | x_t] is known, but is not affine: where the two meet, a wrong step leads to the wrong
one of them.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fromnoise.diffusion import (
    SAMPLERS,
    NoiseSchedule,
    Prediction,
    ddim,
    ddpm,
    heun,
    sampling_timesteps,
    unipc,
)


def ellipse(degrees: float, *std: float) -> Tensor:
    """The covariance with these two standard deviations, turned."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor(std, dtype=torch.float64).square()) @ turn.T


DRAWS = 100_000
EYE = torch.eye(2, dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-1.2, 0.6], [0.8, -0.4]], dtype=torch.float64)
# Narrow, for 100 steps of `ddim` lose at least π²/400 = 2.5 % of the variance of a Gaussian.
COVARIANCES = torch.stack([ellipse(30, 0.1, 0.04), ellipse(-45, 0.08, 0.03)])
MEAN = WEIGHTS @ MEANS
SPREAD = MEANS - MEAN
COVARIANCE = torch.einsum("k,kij->ij", WEIGHTS, COVARIANCES + SPREAD[:, :, None] * SPREAD[:, None])


class Mixture:
    """What x_t says about x_0, and about how far x_0 may still lie from that."""

    def __init__(self, schedule: NoiseSchedule, times: list[int]) -> None:
        self.schedule = schedule
        self.after = dict(zip(times, [*times[1:], 0], strict=True))

    def about_x0(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and the variance of each number of x_0 given x_t, both (B,2); x is x_t."""
        a = self.schedule.alpha_bar[t]
        share = shares(x, a.sqrt() * MEANS, a * COVARIANCES + (1 - a) * EYE)[:, None]
        gains = a.sqrt() * torch.linalg.solve(a * COVARIANCES + (1 - a) * EYE, COVARIANCES)
        one, other = (
            m.to(x) + (x - (a.sqrt() * m).to(x)) @ gain.to(x)
            for m, gain in zip(MEANS, gains, strict=True)
        )
        of_one, of_other = (COVARIANCES - a.sqrt() * gains @ COVARIANCES).diagonal(0, 1, 2).to(x)
        within = of_other + share * (of_one - of_other)
        return other + share * (one - other), within + share * (1 - share) * (one - other).square()

    def denoise(self, x_t: Tensor, t: int) -> Prediction:
        """E[x_0 | x_t], and the fraction that the variance of the step to the next time needs."""
        x0, left = self.about_x0(x_t[:, :, 0, 0], t)
        return Prediction(
            "x0",
            x0[:, :, None, None],
            x_t,
            self.schedule.alpha(t),
            self.schedule.sigma(t),
            self._fraction(left, t)[:, :, None, None],
        )

    def _fraction(self, left: Tensor, t: int) -> Tensor:
        """Where log σ² of the true p(x_s | x_t), number by number, is between log β̃ and log β."""
        s = self.after.get(t, 0)  # churn asks at times between those of the steps
        if s == 0:
            return torch.zeros_like(left)
        a_t, a_s = self.schedule.alpha_bar[[t, s]].tolist()
        least, most = (variance.item() for variance in self.schedule.variances(t, s))
        exact = least + a_s * (most / (1 - a_t)) ** 2 * left
        return (exact / least).log() / math.log(most / least)


def shares(x: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """How likely each x is of the first of two components, (B,)."""
    logs = []
    for weight, mean, covariance in zip(WEIGHTS, means, covariances, strict=True):
        d = x - mean.to(x)
        of_distance = (d @ torch.linalg.inv(covariance).to(x) * d).sum(dim=1)
        logs.append((weight.log() - torch.logdet(covariance) / 2).to(x) - of_distance / 2)
    return torch.sigmoid(logs[0] - logs[1])


class Errors(NamedTuple):
    """Of the first weight; of the mean, by the root of tr C; of the covariance, ‖Ĉ − C‖/‖C‖."""

    weight: float
    mean: float
    covariance: float


def errors(sampler, steps: int = 100, timesteps: str = "trailing") -> Errors:
    """Those of so many draws, with the cosine schedule."""
    schedule = NoiseSchedule.named("cosine", 1000)
    times = sampling_timesteps(schedule, steps, timesteps)
    generator = np.random.default_rng(0)

    def noise(t: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal((DRAWS, 2, 1, 1), dtype=np.float32))

    *_, last = sampler(Mixture(schedule, times).denoise, schedule, noise(0), times, noise=noise)
    x = last.x[:, :, 0, 0].double()
    return Errors(
        abs(shares(x, MEANS, COVARIANCES).mean() - WEIGHTS[0]).item(),
        ((x.mean(dim=0) - MEAN).norm() / COVARIANCE.trace().sqrt()).item(),
        ((x.T.cov() - COVARIANCE).norm() / COVARIANCE.norm()).item(),
    )


def test_the_mixture_is_what_it_says():
    # x_0 ~ the mixture, x_t from it: E[x_0 | x_t] has the mean of x_0, and what it leaves of the
    # covariance is the mean of Var(x_0 | x_t).
    generator = torch.Generator().manual_seed(0)
    which = torch.rand(DRAWS, generator=generator) > WEIGHTS[0]
    z, eps = torch.randn(2, DRAWS, 2, generator=generator, dtype=torch.float64)
    roots = torch.linalg.cholesky(COVARIANCES)[which.long()]
    x0 = MEANS[which.long()] + torch.einsum("nij,nj->ni", roots, z)
    schedule = NoiseSchedule.named("cosine", 1000)
    x_t = schedule.add_noise(x0, eps, 600)
    mean, variance = Mixture(schedule, [600]).about_x0(x_t, 600)
    error = x0 - mean
    assert error.mean(dim=0).abs().max() < 0.01
    assert (error * x_t).mean(dim=0).abs().max() < 0.01  # nothing more is to be learned from x_t
    torch.testing.assert_close(error.square().mean(dim=0), variance.mean(dim=0), rtol=0.02, atol=0)


EACH = {
    **SAMPLERS,
    "ddpm": partial(ddpm, variance="small"),
    "ddpm large": partial(ddpm, variance="large"),
    "ddpm learned": partial(ddpm, variance="learned"),
    "ddim 0.5": partial(ddim, eta=0.5),
    "ddim 1": partial(ddim, eta=1.0),
    "heun churn": partial(heun, churn=10.0),
    "unipc 3": partial(unipc, order=3),
}


QUICK = ("ddim", "ddpm", "dpm++sde", "unipc")  # one of each kind; the others are slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [pytest.param(s, id=n, marks=() if n in QUICK else pytest.mark.slow) for n, s in EACH.items()],
)
def test_100_steps_keep_weights_and_moments(sampler):
    found = errors(sampler)
    assert found.weight < 0.01
    assert found.mean < 0.01
    assert found.covariance < 0.01


def test_a_step_that_is_not_that_of_the_kept_times_is_seen():
    # As if every step led to t − 1: what some programs do with fewer steps than T.
    def wrong(denoise, schedule, x, times, *, noise):
        for t in times:
            step = next(ddim(denoise, schedule, x, [t, t - 1] if t > 1 else [t], noise=noise))
            x = step.x
            yield step

    assert max(errors(wrong, steps=20)) > 0.05
