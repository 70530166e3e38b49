"""Draw the samplers and the variances of their steps."""

from functools import cache

import torch
from lines import T
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plane import dots, drawn, exact, ground, two, walk
from style import ACCENT, GREY, SECOND, panels
from torch import Tensor

from fromnoise.diffusion import (
    SAMPLERS,
    TIMESTEPS,
    Prediction,
    cheapest_path,
    sampling_timesteps,
    step_costs,
)

DETERMINISTIC = [name for name in SAMPLERS if name not in ("ddpm", "dpm++sde")]
SHOWN, STEPS, COUNTED = 14, 8, 2000
COUNTS = [5, 10, 20, 40, 80]
FEW = range(4, 13)  # searched steps
BESIDE = {"ipndm": {"order": 2}, "unipc": {"order": 3}}  # drawn as a second curve


def sampler(name: str) -> Figure:
    """Draw paths of a sampler, and its error or the shares of its samples."""
    if name in DETERMINISTIC:
        figure, (left, right) = panels(f"Sampler {name}", 2, height=3.1)
        ground(left, f"{STEPS} steps; grey: exact")
        left.plot(*exact(SHOWN)[..., 0, 0].unbind(-1), color="0.55", linewidth=0.8)
        _paths(left, walk(name, drawn(SHOWN), STEPS))
        for other in DETERMINISTIC:
            right.loglog(COUNTS, _errors(other), color=GREY)
        right.loglog(COUNTS, _errors(name), ".-", color=ACCENT, label=name)
        if name in BESIDE:
            words = ", ".join(f"{key} = {value}" for key, value in BESIDE[name].items())
            right.loglog(COUNTS, _errors(name, **BESIDE[name]), "--", color=SECOND, label=words)
        right.set(xlabel="steps", ylabel="median distance from exact")
        right.set_xticks(COUNTS, COUNTS)
        right.minorticks_off()
        right.legend(loc="lower left")
        return figure
    figure, (left, right) = panels(f"Sampler {name}", 2, height=3.1)
    ground(left, "20 steps")
    _paths(left, walk(name, drawn(SHOWN // 2), 20))
    _ends(right, walk(name, drawn(COUNTED), 20)[-1])
    return figure


def _paths(panel: Axes, x: Tensor) -> None:
    x = x[..., 0, 0]
    colours = [two.COLOURS[k] for k in two.nearest(x[-1])]
    for path, colour in zip(x.unbind(1), colours, strict=True):
        panel.plot(*path.unbind(-1), ".-", color=colour, linewidth=0.8, markersize=3)
        panel.plot(*path[-1], "o", color=colour, markersize=4)


def _ends(panel: Axes, x: Tensor) -> None:
    belongs = two.nearest(x[..., 0, 0])
    shares = " / ".join(f"{share:.2f}" for share in belongs.bincount(minlength=3) / len(x))
    ground(panel, f"{len(x):,} samples: {shares}")
    dots(panel, x, [two.COLOURS[k] for k in belongs])


@cache
def _errors(name: str, **options: int) -> list[float]:
    """Return the median distance of 300 samples from the exact ones, for each of COUNTS."""
    right = exact(300)[-1]
    ends = [walk(name, drawn(300), steps, **options)[-1] for steps in COUNTS]
    return [(x - right).flatten(1).norm(dim=1).median().item() for x in ends]


# ---- searched timesteps --------------------------------------------------------------------------


def searched() -> Figure:
    """Draw the searched timesteps beside those of rules, and the error of each."""
    candidates = sampling_timesteps(two.SCHEDULE, 60)
    fine = SAMPLERS["heun"](two.denoise, two.SCHEDULE, drawn(64), candidates, noise=None)
    costs = step_costs(two.SCHEDULE, drawn(64), fine)
    figure, (left, right) = panels("Searched timesteps", 2)
    rows = {"searched": ACCENT, "trailing": SECOND, "karras": "0.4", "log_snr": "0.6"}
    for height, (rule, colour) in enumerate(rows.items()):
        times = {n: sampling_timesteps(two.SCHEDULE, n, rule) for n in FEW if rule in TIMESTEPS}
        times = times or {n: [candidates[i] for i in cheapest_path(costs, n)] for n in FEW}
        left.plot(times[6], [-height] * 6, "o", color=colour, markersize=5)
        right.semilogy(FEW, [_distance(times[n]) for n in FEW], ".-", color=colour, label=rule)
    left.set(xlabel="t of 6 steps", xlim=(-0.03 * T, 1.03 * T), ylim=(-3.6, 0.6))
    left.set_yticks([-height for height in range(len(rows))], list(rows))
    right.set(xlabel="steps of ddim", ylabel="mean distance from exact")
    right.set_yticks([0.1, 0.2, 0.4], ["0.1", "0.2", "0.4"])
    right.minorticks_off()
    right.legend()
    return figure


def _distance(times: list[int]) -> float:
    """Return the mean distance of 300 samples of ddim from the exact ones, with other noise."""
    x_T = drawn(300, seed=1)
    ends, right = walk("ddim", x_T, len(times), rule=times)[-1], walk("heun", x_T, T)[-1]
    return (ends - right).flatten(1).norm(dim=1).mean().item()


# ---- the variance of a step of ddpm --------------------------------------------------------------


def learned(x_t: Tensor, t: int) -> Prediction:
    """Predict with the perfect denoiser and the variance that a perfect network would learn.

    σ² = β̃ + (√ᾱ_s β/(1−ᾱ_t))² Var[x_0 | x_t] with s = t−1, as a fraction between β̃ and β.
    """
    prediction = two.denoise(x_t, t)
    a_t, a_s = two.SCHEDULE.alpha_bar[t], two.SCHEDULE.alpha_bar[t - 1]
    small, large = two.SCHEDULE.variances(t, t - 1)
    best = small + (a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t)) ** 2 * spread(x_t, t)
    fraction = (best / small).log() / (large / small).log()
    return Prediction("x0", prediction.x0, x_t, prediction.alpha, prediction.sigma, fraction)


def spread(x_t: Tensor, t: int) -> Tensor:
    """Return Var[x_0 | x_t], like x_t: that of each Gaussian, and that between their means."""
    a = two.SCHEDULE.alpha_bar[t]
    variance = a * two.STD**2 + 1 - a
    one = torch.eye(3, dtype=torch.float64)
    means = torch.stack([two.denoise(x_t, t, weights=w).x0 for w in one])  # (3,B,2,1,1)
    apart = (x_t - a.sqrt() * two.MEANS[:, None, :, None, None]).square().sum(dim=2)
    r = (two.WEIGHTS.log()[:, None, None, None] - apart / (2 * variance)).softmax(dim=0)
    mean = two.denoise(x_t, t).x0
    between = (r[:, :, None] * (means - mean).square()).sum(dim=0)
    return between + two.STD**2 * (1 - a) / variance


def variance(name: str) -> Figure:
    """Draw σ²/β over t in 20 steps, and the samples."""
    figure, (left, right) = panels(f"ddpm with variance = {name}, 20 steps", 2, height=3.1)
    times = sampling_timesteps(two.SCHEDULE, 20, "log_snr")
    pairs = list(zip(times, [*times[1:], 0], strict=True))[:-1]  # at s = 0 nothing is added
    small, large = torch.stack([torch.stack(two.SCHEDULE.variances(*p)) for p in pairs]).unbind(1)
    x = walk("ddpm", drawn(COUNTED), 20, denoise=learned, variance="learned")
    f = torch.stack([learned(x_t, t).fraction for x_t, t in zip(x, times[:-1], strict=False)])
    middle = (small.log() + f.mean(dim=(1, 2, 3, 4)) * (large / small).log()).exp()
    curves = {"small": small, "learned": middle, "large": large}
    share = torch.tensor(times[:-1]) / T
    for other, curve in curves.items():
        left.plot(share, curve / large, color=ACCENT if other == name else GREY)
        left.plot(share, curve / large, ".", color=ACCENT if other == name else GREY)
    left.set(xlabel="t/T", ylabel="σ² as a share of β", ylim=(0, 1.05))
    _ends(right, walk("ddpm", drawn(COUNTED), 20, denoise=learned, variance=name)[-1])
    return figure
