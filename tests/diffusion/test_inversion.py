"""DDIM walked upwards: to the exact noise of Gaussian data, and back again."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    Prediction,
    ddim,
    ddim_inversion,
    sampling_timesteps,
)

D = 3
EYE = torch.eye(D, dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0, 0], [0.5, 0.3, 0], [-0.2, 0.1, 0.8]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T


class Gaussian:
    """The exact denoiser of x_0 ~ N(m, C), as images (B,D,1,1)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: int) -> Prediction:
        a = self.schedule.alpha_bar[t]
        gain = a.sqrt() * COVARIANCE @ torch.linalg.inv(a * COVARIANCE + (1 - a) * EYE)
        x0 = MEAN + (x_t[:, :, 0, 0] - a.sqrt() * MEAN) @ gain.T
        return Prediction("x0", x0[:, :, None, None], x_t, a.sqrt(), (1 - a).sqrt())

    def flowed(self, x0: Tensor, t: int) -> Tensor:
        """Where the ODE leads: along each eigenvector of C, x_t − α m grows as its deviation."""
        a = self.schedule.alpha_bar[t]
        variances, vectors = torch.linalg.eigh(COVARIANCE)
        grown = ((a * variances + 1 - a) / variances).sqrt()
        centred = (x0[:, :, 0, 0] - MEAN) @ vectors
        return (a.sqrt() * MEAN + (centred * grown) @ vectors.T)[:, :, None, None]


@pytest.fixture(scope="module")
def images() -> Tensor:
    drawn = torch.randn(50, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (MEAN + drawn @ ROOT.T)[:, :, None, None]


def inverted(schedule, images, times):
    *_, last = ddim_inversion(Gaussian(schedule), schedule, images, times)
    return last.x


def errors(schedule, images, steps):
    """Of x_T against the ODE's, and of the way there and back again against the images."""
    denoise, times = Gaussian(schedule), sampling_timesteps(schedule, steps)
    x_T = inverted(schedule, images, times)
    *_, last = ddim(denoise, schedule, x_T, times, noise=lambda t: torch.zeros(()))
    return (
        (x_T - denoise.flowed(images, 1000)).abs().mean().item(),
        (last.x - images).abs().mean().item(),
    )


def test_the_way_there_and_back_is_of_first_order(schedule, images):
    measured = [errors(schedule, images, steps)[1] for steps in (32, 64, 128, 256)]
    ratios = [before / after for before, after in pairwise(measured)]
    assert all(1.75 < ratio < 2.1 for ratio in ratios), measured


def test_a_thousand_steps_find_the_noise_and_return_to_the_image(schedule, images):
    of_noise, of_image = errors(schedule, images, 1000)
    assert of_noise < errors(schedule, images, 250)[0] / 3  # 4 at first order
    assert of_noise < 0.003
    assert of_image < 0.003


def test_the_noise_of_the_data_is_standard_normal(schedule):
    drawn = torch.randn(20_000, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images = (MEAN + drawn @ ROOT.T)[:, :, None, None]
    x_T = inverted(schedule, images, sampling_timesteps(schedule, 200))[:, :, 0, 0]
    assert x_T.mean(dim=0).abs().max() < 0.03
    assert (x_T.T.cov() - EYE).abs().max() < 0.05


def test_every_step_of_it_is_one_of_the_kept_times(schedule, images):
    times = sampling_timesteps(schedule, 4)
    steps = list(ddim_inversion(Gaussian(schedule), schedule, images, times))
    assert [(step.t, step.s) for step in steps] == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert torch.equal(steps[0].x0, images)
    with pytest.raises(ValueError, match="times must fall"):
        list(ddim_inversion(Gaussian(schedule), schedule, images, [250, 500]))


class Wave(nn.Module):
    """A cheap, smooth and bounded function of x and t, which keeps its last output."""

    def forward(self, x, index, cond):
        self.output = torch.sin(2 * x + index[:, None, None, None] / 300)
        return self.output


@pytest.mark.parametrize("steps", [7, 20, 50])
@pytest.mark.parametrize(("kind", "theirs"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_fed_the_same_predictions_diffusers_makes_the_same_steps(schedule, kind, theirs, steps):
    """Theirs asks the network for (x_t, u), the time that it goes to; ours for (x_t, t), as in the
    Euler step of the paper's ODE. So here both get our predictions. At t = 0 theirs reads an
    output v as ε̂, that of α = 1, where ours has the α of the first kept time: only for ε do the
    first steps agree. Their times are 1 less, and evenly spaced; their x̂_0 is clipped by default.
    """
    diffusers = pytest.importorskip("diffusers")
    wave = Wave()
    scheduler = diffusers.DDIMInverseScheduler(
        1000, prediction_type=theirs, timestep_spacing="leading", clip_sample=False
    )
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    scheduler.set_timesteps(steps)
    times = sampling_timesteps(schedule, steps, "leading")
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    denoise = Denoiser(wave, schedule, kind)
    for step in ddim_inversion(denoise, schedule, x, times):
        expected, x0 = scheduler.step(wave.output, step.s - 1, x, return_dict=False)
        if kind == "eps" or step.t > 0:
            atol = 1e-5 * max(1, expected.abs().max().item())
            torch.testing.assert_close(step.x, expected, rtol=0, atol=atol)
            torch.testing.assert_close(step.x0, x0, rtol=0, atol=1e-5 * x0.abs().max().item())
        x = step.x


@pytest.mark.parametrize("times", [[1, 500], [500, 500, 1], [999, 500, 0], [1001, 5]])
def test_times_that_do_not_fall_within_1_to_T_are_refused(schedule, images, times):
    with pytest.raises(ValueError, match=r"times must fall, each in 1\.\."):
        next(ddim_inversion(lambda x, t: pytest.fail("asked"), schedule, images, times))
