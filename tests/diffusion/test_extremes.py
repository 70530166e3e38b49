"""What every sampler must bear: a last time with no image at all, one step, all steps, float32.

The data are x_0 ~ N(m, c), each number by itself, and the network knows them.
"""

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from fromnoise.diffusion import SAMPLERS as NAMED
from fromnoise.diffusion import (
    TIMESTEPS,
    Denoiser,
    NoiseSchedule,
    ddim,
    ddpm,
    heun,
    sampling_timesteps,
    unipc,
)

MEAN = torch.tensor([0.5, -1.0, 0.2])[:, None, None]
VARIANCE = torch.tensor([0.06, 0.4, 0.8])[:, None, None]
SAMPLERS = {
    **NAMED,
    "ddpm": partial(ddpm, variance="small"),
    "ddpm large": partial(ddpm, variance="large"),
    "ddpm learned": partial(ddpm, variance="learned"),
    "ddim 0.5": partial(ddim, eta=0.5),
    "ddim 1": partial(ddim, eta=1.0),
    "heun churn": partial(heun, churn=10.0),
    "unipc 3": partial(unipc, order=3),
}
NOTHING_AT_T = {
    "linear": NoiseSchedule.named("linear", 1000, zero_terminal_snr=True),
    "cosine": NoiseSchedule.named("cosine", 1000, zero_terminal_snr=True),
    "jsd": NoiseSchedule.named("jsd", 1000),
    "flow": NoiseSchedule.named("flow", 1000),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
each_schedule = pytest.mark.parametrize("schedule", NOTHING_AT_T.values(), ids=NOTHING_AT_T)


class PerfectNetwork(nn.Module):
    """E[v | x_t], E[x_0 | x_t], …, and a learned variance halfway from β̃ to β."""

    def __init__(self, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        a = self.schedule.alpha_bar[int(index[0]) + 1].to(x_t)
        n = (1 - a + a / 4).sqrt()
        x_t = x_t * n if self.kind == "edm" else x_t
        off = (x_t - a.sqrt() * MEAN) / (a * VARIANCE + 1 - a)
        x0, eps = MEAN + a.sqrt() * VARIANCE * off, (1 - a).sqrt() * off
        known = {"x0": x0, "eps": eps, "flow": eps - x0}
        known["v"] = a.sqrt() * eps - (1 - a).sqrt() * x0
        known["edm"] = 2 * ((1 - a).sqrt() * x0 - a.sqrt() * eps / 4) / n
        return torch.cat([known[self.kind], torch.zeros_like(x_t)], dim=1)


def made(sampler, schedule: NoiseSchedule, times: list[int], kind: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what comes out when x_T ~ N(0, I), (3,) each.

    Every number of the end is affine in that of x_T and in the noise of each step: one probe each.
    """
    probes = torch.zeros(2 + len(times), 3, 1, 1, dtype=torch.float64)
    probes[1] = 1
    row = {t: 2 + i for i, t in enumerate(times)}

    def noise(t: int) -> Tensor:
        z = torch.zeros_like(probes)
        z[row[t]] = 1
        return z

    denoise = Denoiser(PerfectNetwork(schedule, kind), schedule, kind)
    *_, last = sampler(denoise, schedule, probes, times, noise=noise)
    end = last.x[:, :, 0, 0]
    return end[0], (end[1:] - end[0]).square().sum(dim=0).sqrt()


# ---- no image at all at T -------------------------------------------------------------------


# The error of the standard deviations, by their norm, with 20 steps and with 100.
FIRST_ORDER, SECOND_ORDER = (0.2, 0.06), (0.09, 0.02)
MOST = dict.fromkeys(("heun", "dpm++", "dpm++sde", "unipc", "unipc 3", "ddpm large"), SECOND_ORDER)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_from_pure_noise_the_mean_is_exact_and_the_deviation_near(name):
    steps_and_errors = zip((20, 100), MOST.get(name, FIRST_ORDER), strict=True)
    for (steps, most), (which, schedule), kind in product(
        steps_and_errors, NOTHING_AT_T.items(), ("v", "x0", "flow", "edm")
    ):
        mean, std = made(SAMPLERS[name], schedule, sampling_timesteps(schedule, steps), kind)
        assert (mean - MEAN.flatten()).abs().max() <= 1e-5, (steps, which, kind)
        right = VARIANCE.flatten().double().sqrt()
        assert (std - right).norm() / right.norm() < most, (steps, which, kind)


@each_schedule
def test_a_predicted_noise_is_refused_where_it_says_nothing(schedule):
    with pytest.raises(ValueError, match=r"Set diffusion.prediction to v, x0, flow or edm, or"):
        Denoiser(PerfectNetwork(schedule, "eps"), schedule, "eps")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_last_time_with_almost_nothing_is_as_one_with_nothing(name):
    # ᾱ_T = 1e-12 instead of 0: dpm++ has then an x̂_0 before to extrapolate from, from far away.
    exact = NOTHING_AT_T["linear"].alpha_bar
    betas = 1 - exact[1:] / exact[:-1]
    betas[-1] = 1 - 1e-12 / exact[-2]
    times = sampling_timesteps(NOTHING_AT_T["linear"], 20)
    nothing = made(SAMPLERS[name], NOTHING_AT_T["linear"], times, "v")
    almost = made(SAMPLERS[name], NoiseSchedule(betas), times, "v")
    for a, b in zip(almost, nothing, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-2 if name == "dpm++" else 1e-3)


# ---- any number of steps, by any timesteps ----------------------------------------------------


@each_sampler
@pytest.mark.parametrize("T", [50, 1000])
def test_one_step_two_steps_and_all_end_finite_at_0_in_float32(sampler, T):
    short = NoiseSchedule.named("linear", 50, beta_T=0.4)
    schedule = short if T == 50 else NOTHING_AT_T["jsd"]
    generator = torch.Generator().manual_seed(0)

    def noise(t: int) -> Tensor:
        return torch.randn(4, 3, 1, 1, generator=generator)

    denoise = Denoiser(PerfectNetwork(schedule, "v"), schedule, "v")
    for steps, timesteps in product((1, 2, 3 if T == 1000 else 50), TIMESTEPS):
        times = sampling_timesteps(schedule, steps, timesteps)
        seen = list(sampler(denoise, schedule, noise(0), times, noise=noise))
        assert [step.t for step in seen] == times, timesteps
        assert seen[-1].s == 0
        for step in seen:
            assert step.x.dtype == step.x0.dtype == torch.float32
            assert step.x.isfinite().all(), (timesteps, steps, step.t)
        torch.testing.assert_close(seen[-1].x, seen[-1].x0, msg=f"{steps} steps, {timesteps}")


QUICK = ("ddim", "ddpm", "dpm++", "unipc")  # one of each kind; the others are slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(sampler, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, sampler in SAMPLERS.items()
    ],
)
def test_all_steps_from_pure_noise_are_right(sampler):
    schedule = NOTHING_AT_T["linear"]
    mean, std = made(sampler, schedule, sampling_timesteps(schedule, schedule.T), "v")
    torch.testing.assert_close(mean, MEAN.flatten().double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, VARIANCE.flatten().double().sqrt(), rtol=0.02, atol=0)
