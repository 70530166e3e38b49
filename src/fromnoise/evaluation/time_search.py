"""`fromnoise sweep --search-times`: the best timesteps of a model, for each number of steps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.config.components import Component
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.diffusion import NoiseSchedule, cheapest_path, sampling_timesteps, step_costs
from fromnoise.evaluation.records import Found, Search
from fromnoise.model.model import Model
from fromnoise.progress import progress_bar

GRID = 60  # times to choose from
TRAJECTORIES = 64
NUMBERS = 2**27  # of a batch of trajectories: 512 MiB
WITH_NOISE = {"ddpm", "dpm++sde"}


def candidate_times(schedule: NoiseSchedule) -> list[int]:
    """Return the times that a search chooses from: `GRID`, evenly spaced from T, or all."""
    return sampling_timesteps(schedule, min(GRID, schedule.T))


def check_searchable(configs: Sequence[SamplingConfig], schedule: NoiseSchedule) -> None:
    """Raise ConfigError for more steps than times to choose from, and for steps with noise."""
    count = len(candidate_times(schedule))
    for config in configs:
        name, options = config.sampler.name, config.sampler.options
        noisy = [(key, options[key]) for key in ("eta", "churn") if options.get(key)]
        if name in WITH_NOISE:
            raise ConfigError(
                f"--search-times is for steps without noise, and {name} adds some. Use --samplers "
                "ddim, euler, heun, ipndm, dpm++ or unipc."
            )
        if noisy:
            [(key, value), *_] = noisy
            raise ConfigError(
                f"--search-times is for steps without noise, and {key} = {value:g} adds some. Use "
                f"{key}=0."
            )
        if config.steps > count:
            raise ConfigError(
                f"--steps {config.steps} is too many: --search-times chooses from {count} times. "
                f"Use at most {count}."
            )


def search_times(
    model: Model, configs: Sequence[SamplingConfig], *, cond: Tensor | None = None, first_seed: int
) -> Search:
    """Return the best timesteps for the steps and the guidance of each of the settings.

    Those of `cheapest_path`, whatever the sampler, from the `step_costs` of `TRAJECTORIES` images
    by `heun`, one for each seed from `first_seed` on. cond: their labels in {−1, 0, +1},
    (TRAJECTORIES, K).
    """
    times = candidate_times(model.denoiser.schedule)
    found: dict[tuple[float, int], list[int]] = {}
    costs: dict[float, Tensor] = {}
    for config in configs:
        scale = config.guidance
        if scale not in costs:
            costs[scale] = mean_costs(model, config, times, cond, first_seed)
        path = cheapest_path(costs[scale], config.steps)
        found[scale, config.steps] = [times[i] for i in path]
    return Search(
        candidates=times,
        trajectories=TRAJECTORIES,
        found=[Found(guidance=s, steps=n, timesteps=of) for (s, n), of in found.items()],
    )


def mean_costs(
    model: Model, config: SamplingConfig, times: list[int], cond: Tensor | None, first_seed: int
) -> Tensor:
    """Return the mean `step_costs` between the times, (N, N+1)."""
    fine = {"sampler": Component(name="heun"), "steps": len(times), "timesteps": tuple(times)}
    config = config.model_copy(update=fine)
    size = max(1, NUMBERS // (2 * len(times) * math.prod(model.image_shape)))
    total = torch.zeros(len(times), len(times) + 1, dtype=torch.float64)
    what = "trajectories" if config.guidance == 1 else f"trajectories, s = {config.guidance:g}"
    with progress_bar(what) as progress:
        for i in range(0, TRAJECTORIES, size):
            rows = slice(i, min(i + size, TRAJECTORIES))
            seeds = range(first_seed + rows.start, first_seed + rows.stop)
            steps = model.denoise(seeds, config, cond=None if cond is None else cond[rows])
            start = model.start(seeds).to(model.device)
            costs = step_costs(model.denoiser.schedule, start, steps)
            total += len(seeds) / TRAJECTORIES * costs
            progress(rows.stop, TRAJECTORIES)
    return total
