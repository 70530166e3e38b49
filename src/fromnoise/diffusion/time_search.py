"""Search the few timesteps with the smallest error of `ddim`, by dynamic programming.

Chen et al. 2024 (arXiv:2405.11326): the trajectories of a model's ODE are alike in shape, whatever
the image, so a few of them show between which times a long step is cheap. The paper compares x/α.
This module compares x, whose variance is about 1 at each time, so errors count equally.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fromnoise.diffusion.samplers.step import Step
from fromnoise.diffusion.schedule import NoiseSchedule


def step_costs(schedule: NoiseSchedule, x: Tensor, trajectories: Iterable[Step]) -> Tensor:
    """Return the mean error of one step of `ddim` between any two times of trajectories.

    c_ij = mean of ‖α_j x̂_0 + σ_j ε̂ − x_j‖ / √(C·H·W) over the trajectories, x̂_0 and ε̂ of x_i: the
    distance from the end of one step to the trajectory.

    x: x_T, (B,C,H,W); trajectories: the steps from there through N times to 0, by a sampler that
    solves the ODE well in them, such as `heun`. Returns float64 (N, N+1), the last column that of
    t = 0; infinite for j ≤ i.
    """
    times, points, predicted = [], [x], []
    for step in trajectories:
        times.append(step.t)
        points.append(step.x)
        predicted.append(step.x0)
    a = schedule.alpha_bar[torch.tensor([*times, 0])]
    alpha, sigma = a.sqrt().tolist(), (1 - a).sqrt().tolist()
    costs = torch.full((len(times), len(points)), torch.inf, dtype=torch.float64)
    for i, x0 in enumerate(predicted):
        eps = (points[i] - alpha[i] * x0) / sigma[i]
        errors = [
            (alpha[j] * x0 + sigma[j] * eps - points[j]).flatten(1).square().mean(1).sqrt().mean()
            for j in range(i + 1, len(points))
        ]
        costs[i, i + 1 :] = torch.stack(errors)
    return costs


def cheapest_path(costs: Tensor, steps: int, gamma: float = 1.0) -> list[int]:
    """Return the indices 0 = i_1 < … < i_n of the times with the least Σ_k γ^(k−1) c(i_k, i_{k+1}).

    i_{n+1} = N is t = 0. It is found by V_1(i) = c_iN and V_k(i) = min over j > i of
    c_ij + γ V_{k−1}(j), with k steps left. γ > 1 gives more weight to later steps. The
    paper's 1.15 is for x/α; with `step_costs`, which are of x, it is no better than 1 on Gaussian
    data.

    costs: (N, N+1), of `step_costs`. Raises ValueError unless 1 ≤ steps ≤ N.
    """
    if not 1 <= steps <= len(costs):
        raise ValueError(f"steps must lie between 1 and {len(costs)} times, not {steps}")
    value, following = costs[:, -1], []
    for _ in range(steps - 1):
        value, best = (costs[:, :-1] + gamma * value).min(dim=1)
        following.append(best)
    path = [0]
    for best in reversed(following):
        path.append(int(best[path[-1]]))
    return path
