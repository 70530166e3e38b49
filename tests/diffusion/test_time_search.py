"""The search of timesteps: the dynamic program against brute force, and Gaussian data."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from fromnoise.diffusion import (
    NoiseSchedule,
    Prediction,
    cheapest_path,
    ddim,
    heun,
    sampling_timesteps,
    step_costs,
)


def total(costs: Tensor, path: tuple[int, ...], gamma: float) -> float:
    """The cost of a path, term by term."""
    return sum(gamma**k * costs[i, j] for k, (i, j) in enumerate(pairwise((*path, -1))))


@pytest.mark.parametrize("gamma", [1.0, 1.15, 0.5])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_path_is_the_cheapest_of_all(count, gamma):
    generator = torch.Generator().manual_seed(count)
    costs = torch.rand(count, count + 1, generator=generator, dtype=torch.float64)
    costs[torch.ones_like(costs).tril().bool()] = torch.inf
    for steps in range(1, count + 1):
        paths = [(0, *rest) for rest in combinations(range(1, count), steps - 1)]
        cheapest = min(paths, key=lambda path: total(costs, path, gamma))
        assert tuple(cheapest_path(costs, steps, gamma)) == cheapest


@pytest.mark.parametrize("steps", [0, 4])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=f"between 1 and 3 times, not {steps}"):
        cheapest_path(torch.zeros(3, 4), steps)


class Gaussian:
    """x_0 ~ N(0, v), v of each element from 1 to 0.001: the ODE has a closed solution."""

    variance = torch.logspace(0, -3, 16, dtype=torch.float64)[:, None, None]

    def __init__(self, name: str) -> None:
        self.schedule = NoiseSchedule.named(name, 1000)

    def share(self, t: int) -> Tensor:
        """The standard deviation of x_t."""
        a = self.schedule.alpha_bar[t]
        return (a * self.variance + 1 - a).sqrt()

    def denoise(self, x: Tensor, t: int) -> Prediction:
        a = self.schedule.alpha_bar[t]
        x0 = a.sqrt() * self.variance / self.share(t) ** 2 * x
        return Prediction("x0", x0, x, a.sqrt(), (1 - a).sqrt())

    def drawn(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 16, 1, 1, generator=generator, dtype=torch.float64)

    def distance(self, times: list[int]) -> float:
        """The mean distance of what `ddim` makes to the exact end of the ODE from the same x_T."""
        x = self.drawn(200, seed=1)
        *_, last = ddim(self.denoise, self.schedule, x, times, noise=torch.zeros)
        exact = x * self.share(0) / self.share(self.schedule.T)
        return (last.x - exact).flatten(1).norm(dim=1).mean().item()

    def costs(self, times: list[int]) -> Tensor:
        x = self.drawn(32, seed=0)
        steps = heun(self.denoise, self.schedule, x, times, noise=torch.zeros)
        return step_costs(self.schedule, x, steps)


def test_a_cost_is_the_error_of_one_step():
    data, times = Gaussian("linear"), [1000, 600, 250, 10]
    costs, x = data.costs(times), data.drawn(32, seed=0)
    assert costs.shape == (4, 5)
    walked = heun(data.denoise, data.schedule, x, times, noise=torch.zeros)
    points = [x, *(step.x for step in walked)]
    for i, t in enumerate(times):
        assert costs[i, : i + 1].isinf().all()
        for j, s in enumerate([*times, 0][i + 1 :], start=i + 1):
            step = next(
                ddim(data.denoise, data.schedule, points[i], [t, s][: 1 + (s > 0)], noise=0)
            )
            assert step.s == s
            error = (step.x - points[j]).flatten(1).norm(dim=1).mean().item() / 4
            assert costs[i, j].item() == pytest.approx(error, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_searched_times_lead_nearer_to_the_end_of_the_ode_than_rules(name):
    data = Gaussian(name)
    times = sampling_timesteps(data.schedule, 60)
    costs = data.costs(times)
    for steps in (4, 5, 6):
        found = [times[i] for i in cheapest_path(costs, steps)]
        rules = ("trailing", "karras", "log_snr", "quadratic")
        by_rule = {rule: sampling_timesteps(data.schedule, steps, rule) for rule in rules}
        distances = {rule: data.distance(of) for rule, of in by_rule.items()}
        assert data.distance(found) < 0.97 * min(distances.values()), (found, distances)
        later = [times[i] for i in cheapest_path(costs, steps, 1.15)]
        assert data.distance(found) < 1.01 * data.distance(later)
