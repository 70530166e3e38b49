"""Flow matching and EDM as members of the family: each beside its own paper's equations.

The data are x_0 ~ N(m, C), of which every perfect network is known.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fromnoise.diffusion import (
    SAMPLERS,
    WEIGHTINGS,
    Denoiser,
    NoiseSchedule,
    Objective,
    autoguided,
    bits_per_dimension,
    bound_term,
    with_self_conditioning,
)
from fromnoise.diffusion.losses import OWN

MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0, 0], [0.5, 0.3, 0], [-0.2, 0.1, 0.8]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
EYE = torch.eye(3, dtype=torch.float64)
KINDS = ("eps", "x0", "v", "flow", "edm")
SIGMA_DATA = 0.3  # not the default, and not the deviation of the data: neither may matter


def image_given(x: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """E[x_0 | a x_0 + b ε = x] for standard normal ε; x: (B,3,1,1)."""
    gain = a * torch.linalg.solve(a**2 * COVARIANCE + b**2 * EYE, COVARIANCE)
    return (MEAN + (x[:, :, 0, 0] - a * MEAN) @ gain)[:, :, None, None]


class Perfect(nn.Module):
    """The perfect network of a kind, from the definition in its own paper's space."""

    def __init__(self, schedule: NoiseSchedule, kind: str, learned: bool = False) -> None:
        super().__init__()
        self.schedule, self.kind, self.learned = schedule, kind, learned

    def forward(self, seen: Tensor, index: Tensor, cond: Tensor | None) -> Tensor:
        a = self.schedule.alpha_bar[int(index[0]) + 1]
        alpha, sigma = a.sqrt(), (1 - a).sqrt()
        match self.kind:
            case "flow":  # v(z, τ) = E[ε − x_0 | z], z = (1−τ) x_0 + τ ε
                tau = sigma / (alpha + sigma)
                z = seen / (alpha + sigma)
                x0 = image_given(z, 1 - tau, tau)
                value = (z - x0) / tau  # ε̂ − x̂_0, as z = x̂_0 + τ (ε̂ − x̂_0)
            case "edm" if alpha == 0:  # x = x_t/α is infinite; c_out goes to σ_d, c_skip x to 0
                value = (MEAN / SIGMA_DATA)[:, None, None].expand_as(seen)
            case "edm":  # D(x; σ) = c_skip x + c_out F(c_in x), F = (D − c_skip x)/c_out
                noise, data = sigma / alpha, SIGMA_DATA
                x = seen * (noise**2 + data**2).sqrt()  # c_in is one over this root
                c_skip = data**2 / (noise**2 + data**2)
                c_out = noise * data / (noise**2 + data**2).sqrt()
                value = (image_given(x, 1, noise) - c_skip * x) / c_out
            case _:
                x0 = image_given(seen, alpha, sigma)
                eps = (seen - alpha * x0) / sigma
                value = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0}[self.kind]
        return torch.cat([value, torch.cos(value)], dim=1) if self.learned else value


def denoiser(schedule: NoiseSchedule, kind: str, **options) -> Denoiser:
    return Denoiser(Perfect(schedule, kind, **options), schedule, kind, sigma_data=SIGMA_DATA)


def draw(count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64)


SCHEDULES = {
    "linear": NoiseSchedule.named("linear", 1000),
    "edm": NoiseSchedule.named("edm", 1000),
    "flow": NoiseSchedule.named("flow", 1000),
}


def kinds_of(schedule: NoiseSchedule) -> tuple[str, ...]:
    return KINDS if schedule.alpha_bar[-1] > 0 else KINDS[1:]


each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


# ---- one estimate, said in five ways ------------------------------------------------------------


@each_schedule
def test_each_perfect_network_says_the_same_image(schedule):
    for t in (1, 2, 30, 400, 900, 999):
        a = schedule.alpha_bar[t]
        x_t = a.sqrt() * MEAN[:, None, None] + draw()
        right = image_given(x_t, a.sqrt(), (1 - a).sqrt())
        noise = (x_t - a.sqrt() * right) / (1 - a).sqrt()
        for kind in kinds_of(schedule):
            said = denoiser(schedule, kind)(x_t, t)
            worst = 1e-6 * (1 + x_t.abs().max())  # the coefficients are float32
            scale = (1 - a).sqrt() / a.sqrt() if kind == "eps" else 1
            assert (said.x0 - right).abs().max() <= worst * max(scale, 1), (t, kind)
            scale = a.sqrt() / (1 - a).sqrt() if kind == "x0" else 1
            assert (said.eps - noise).abs().max() <= worst * max(scale, 1), (t, kind)


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_pure_noise_says_the_mean(kind):
    said = denoiser(SCHEDULES["flow"], kind)(draw(), 1000)
    torch.testing.assert_close(
        said.x0, MEAN[:, None, None].expand(4, -1, -1, -1), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(said.eps, draw(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_own_is_the_squared_error_of_the_prediction_over_that_of_the_image(kind):
    schedule, x0, guess = SCHEDULES["linear"], draw(3, 1), draw(3, 2)
    t = torch.tensor([1, 400, 1000])
    x_t = schedule.add_noise(x0, draw(3, 3), t)
    a = schedule.alpha_bar[t].reshape(3, 1, 1, 1)
    alpha, sigma = a.sqrt(), (1 - a).sqrt()
    said = denoiser(schedule, kind)(x_t, 1)
    said = replace(said, alpha=alpha, sigma=sigma)
    eps_of = [(x_t - alpha * image) / sigma for image in (x0, guess)]
    right, wrong = (said.value_of(*pair) for pair in zip((x0, guess), eps_of, strict=True))
    ratio = (right - wrong).square().flatten(1).sum(1) / (x0 - guess).square().flatten(1).sum(1)
    options = {"sigma_data": SIGMA_DATA} if kind == "edm" else {}
    own = OWN[kind]((a / (1 - a)).flatten(), **options)
    torch.testing.assert_close(own, ratio, rtol=1e-9, atol=0)
    by_hand = {
        "flow": ((alpha + sigma) / sigma).square(),
        "edm": (sigma**2 + alpha**2 * SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2,
    }
    torch.testing.assert_close(own, by_hand[kind].flatten(), rtol=1e-9, atol=0)


def test_the_plain_error_of_edm_is_the_weight_of_its_paper():
    # λ(σ) = (σ² + σ_d²)/(σ σ_d)² of the error of D, Table 1
    noise = torch.logspace(-3, 2, 20, dtype=torch.float64)
    theirs = (noise**2 + SIGMA_DATA**2) / (noise * SIGMA_DATA) ** 2
    torch.testing.assert_close(OWN["edm"](noise**-2, sigma_data=SIGMA_DATA), theirs)


@pytest.mark.parametrize("name", ["simple", "snr", "min_snr"])
def test_a_weighted_error_of_edm_pulls_the_image_by_its_weight(name):
    schedule, t = SCHEDULES["linear"], torch.tensor([1, 300, 900])
    output = draw(3, 1).requires_grad_()

    class Free(nn.Module):
        def forward(self, x_t, index, cond):
            return output

    built = Denoiser(Free(), schedule, "edm", sigma_data=SIGMA_DATA)
    x0, eps = draw(3, 2), draw(3, 3)
    objective = Objective(weighting=WEIGHTINGS[name])
    (gradient,) = torch.autograd.grad(objective(built, x0, eps, t).sum(), output)
    a = schedule.alpha_bar[t].reshape(3, 1, 1, 1)
    alpha, sigma = a.sqrt(), (1 - a).sqrt()
    of_image = gradient * (sigma**2 + alpha**2 * SIGMA_DATA**2).sqrt() / (sigma * SIGMA_DATA)
    snr = a / (1 - a)
    w = {"simple": snr + 1 / SIGMA_DATA**2, "snr": snr, "min_snr": snr.clamp(max=5)}[name]
    error = built(schedule.add_noise(x0, eps, t), t).x0 - x0
    torch.testing.assert_close(of_image, 2 * w * error / 3, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_the_perfect_network_has_the_least_loss(kind):
    schedule, generator = SCHEDULES["linear"], torch.Generator().manual_seed(0)
    x0 = MEAN + torch.randn(20_000, 3, generator=generator, dtype=torch.float64) @ ROOT.T
    x0, eps, t = x0[:, :, None, None], draw(20_000, 1), torch.full((20_000,), 300)

    class Moved(nn.Module):
        def __init__(self, network: nn.Module, by: float) -> None:
            super().__init__()
            self.network, self.by = network, by

        def forward(self, x_t, index, cond):
            return (1 + self.by) * self.network(x_t, index, cond) + self.by

    def loss(by: float) -> float:
        moved = Moved(Perfect(schedule, kind), by)
        built = Denoiser(moved, schedule, kind, sigma_data=SIGMA_DATA)
        return Objective()(built, x0, eps, t).mean().item()

    assert loss(0.0) < min(loss(0.05), loss(-0.05))


# ---- their own samplers -------------------------------------------------------------------------


def edm_sampler(D: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float], heun: bool):
    """Algorithm 1 of Karras et al. 2022 with S_churn = 0, or its Euler steps alone; yields x."""
    for now, following in pairwise(levels):
        d = (x - D(x, now)) / now
        moved = x + (following - now) * d
        if heun and following != 0:
            d_there = (moved - D(moved, following)) / following
            moved = x + (following - now) * (d / 2 + d_there / 2)
        x = moved
        yield x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_each_step_is_that_of_edm(sampler, kind):
    N, rho = 18, 7
    levels = [
        (80 ** (1 / rho) + i / (N - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        for i in range(N)
    ]
    schedule = NoiseSchedule.named("edm", N)
    theirs = 80 * draw()
    steps = edm_sampler(
        lambda x, s: image_given(x, 1, s), theirs, [*levels, 0.0], sampler == "heun"
    )
    start = schedule.alpha_bar[N].sqrt() * theirs
    ours = SAMPLERS[sampler](
        denoiser(schedule, kind), schedule, start, range(N, 0, -1), noise=lambda t: draw()
    )
    for step, x in zip(ours, steps, strict=True):
        of_image = step.x / schedule.alpha_bar[step.s].sqrt()
        # relative to x/σ: at σ = 80 the image is a hundredth of x
        scale = math.hypot(1, levels[N - step.s] if step.s else 0)
        assert ((of_image - x) / scale).abs().max() <= 1e-5, (step.t, kind)


@pytest.mark.parametrize("kind", ["x0", "v", "flow", "edm"])
def test_each_step_is_that_of_flow_matching(kind):
    T = 50
    schedule = NoiseSchedule.named("flow", T)

    def u(z: Tensor, tau: float) -> Tensor:
        """E[ε − x_0 | z], z = (1−τ) x_0 + τ ε."""
        return (z - image_given(z, 1 - tau, tau)) / tau

    z = draw()
    network = denoiser(schedule, kind)
    times = range(T, 0, -5)
    for step in SAMPLERS["euler"](network, schedule, z, times, noise=lambda t: draw()):
        tau, tau_after = step.t / T, step.s / T
        z = z + (tau_after - tau) * u(z, tau)
        a = schedule.alpha_bar[step.s]
        of_flow = step.x / (a.sqrt() + (1 - a).sqrt())  # x_t is z/√((1−τ)² + τ²)
        torch.testing.assert_close(of_flow, z, rtol=0, atol=1e-5)


@each_schedule
def test_every_sampler_ends_alike_for_every_kind(schedule):
    times = [1000, 800, 600, 400, 250, 120, 50, 10, 2]
    noise = {t: draw(seed=t) for t in times}
    for name, sampler in SAMPLERS.items():
        ends = {}
        for kind in kinds_of(schedule)[-4:]:
            steps = sampler(denoiser(schedule, kind), schedule, draw(), times, noise=noise.get)
            *_, last = steps
            ends[kind] = last.x
        for kind in ("v", "flow", "edm"):
            torch.testing.assert_close(ends[kind], ends["x0"], rtol=0, atol=1e-4, msg=name)


# ---- the rest of the package --------------------------------------------------------------------


def test_the_bound_is_the_same_whatever_is_predicted():
    schedule = NoiseSchedule.named("linear", 40, beta_T=0.4)
    x0 = torch.tensor([0, 90, 255]).double().reshape(1, 3, 1, 1) / 127.5 - 1
    t = torch.tensor([1])
    of_image = bound_term(denoiser(schedule, "x0", learned=True), x0, draw(1), t)
    for kind in KINDS:
        built = denoiser(schedule, kind, learned=True)
        torch.testing.assert_close(bound_term(built, x0, draw(1), t), of_image, rtol=1e-4, atol=0)
        whole = bits_per_dimension(built, x0, noise=lambda t: draw(1, seed=int(t[0]))).total
        if kind == KINDS[0]:
            expected = whole
        torch.testing.assert_close(whole, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_the_bound_trains_the_mean_of_every_kind(kind):
    schedule = SCHEDULES["linear"]
    output = torch.zeros(2, 6, 1, 1, dtype=torch.float64, requires_grad=True)

    class Free(nn.Module):
        def forward(self, x_t, index, cond):
            return output

    built = Denoiser(Free(), schedule, kind)
    x0 = torch.tensor([0, 90, 255, 3, 4, 5]).double().reshape(2, 3, 1, 1) / 127.5 - 1
    loss = Objective("vlb")(built, x0, draw(2), torch.tensor([1, 500]))
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


def test_the_network_of_edm_gets_its_own_estimate_unscaled():
    class Records(nn.Module):
        self_conditioning = True

        def forward(self, seen, index, cond):
            self.seen = seen
            return seen[:, :3]

    schedule, network = SCHEDULES["linear"], Records()
    remembers = with_self_conditioning(Denoiser(network, schedule, "edm", sigma_data=SIGMA_DATA))
    first = remembers(draw(), 500).x0
    assert (network.seen[:, 3:] == 0).all()
    remembers(draw(), 400)
    assert torch.equal(network.seen[:, 3:], first.clamp(-1, 1))
    a = schedule.alpha_bar[400]
    n = (1 - a + a * SIGMA_DATA**2).sqrt()
    torch.testing.assert_close(network.seen[:, :3], draw() / n, rtol=1e-6, atol=0)


def test_a_weaker_model_of_another_deviation_says_its_own_image():
    schedule, x_t = SCHEDULES["linear"], draw()

    class Returns(nn.Module):
        def forward(self, seen, index, cond):
            return 0.3 * seen + 0.1

    strong, weak = (Denoiser(Returns(), schedule, "edm", sigma_data=s) for s in (0.3, 0.8))
    guided = autoguided(strong, weak, 2.0)(x_t, 300).x0
    expected = 2 * strong(x_t, 300).x0 - weak(x_t, 300).x0
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-5)
