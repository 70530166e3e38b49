"""Draw schedules and timesteps: curves over t and over the log-SNR."""

from functools import cache

import torch
from matplotlib.figure import Figure
from style import ACCENT, GREY, SECOND, panels

from fromnoise.diffusion import SCHEDULES, TIMESTEPS, NoiseSchedule, sampling_timesteps

T = 1000
BY_HAND = [beta for beta in (1e-4, 2e-3, 8e-3, 2e-2) for _ in range(T // 4)]
OPTIONS = {"custom": {"betas": BY_HAND}}
STEPS = 10


@cache
def _named(name: str, steps: int = T, **options: float) -> NoiseSchedule:
    return NoiseSchedule.named(name, steps, **OPTIONS.get(name, {}), **options)


def _log_snr(schedule: NoiseSchedule) -> tuple[torch.Tensor, torch.Tensor]:
    """Return t/T and log SNR of t = 1 … T."""
    t = torch.arange(1, schedule.T + 1)
    return t / schedule.T, schedule.log_snr(t)


def schedule(name: str) -> Figure:
    """Draw the log-SNR of one schedule over t/T, with the others in grey."""
    figure, (panel,) = panels(f"Schedule {name}")
    for other in SCHEDULES:
        panel.plot(*_log_snr(_named(other)), color=GREY, linewidth=1)
    panel.plot(*_log_snr(_named(name)), color=ACCENT, label=f"{name}, T = {T}")
    if name == "warmup":
        half = _log_snr(_named(name, fraction=0.5))
        panel.plot(*half, color=SECOND, linestyle="--", label="with fraction = 0.5")
    if name == "linear_rescaled":
        panel.plot(*_log_snr(_named(name, 100)), ":", color=SECOND, label="the same, T = 100")
        plain = _log_snr(_named("linear", 100))
        panel.plot(*plain, "--", color="0.4", label="linear, T = 100: not pure noise")
    _over_time(panel)
    return figure


def zero_terminal_snr() -> Figure:
    """Draw the linear and the cosine schedule before and after."""
    figure, (panel,) = panels("A schedule with zero_terminal_snr")
    for name, colour in (("linear", ACCENT), ("cosine", SECOND)):
        panel.plot(*_log_snr(_named(name)), "--", color=colour, linewidth=1, label=name)
        ended = _log_snr(_named(name, zero_terminal_snr=True))
        panel.plot(*ended, color=colour, label=f"{name}, −∞ at T")
    _over_time(panel)
    panel.set_ylim(-20, 12)
    return figure


def _over_time(panel) -> None:
    panel.set(xlabel="t/T", ylabel="log SNR", xlim=(0, 1.01), ylim=(-15, 14))
    panel.legend(loc="lower left")


def timesteps(name: str) -> Figure:
    """Draw the visited timesteps on the curve of the log-SNR, and as ticks on both axes."""
    linear = _named("linear")
    visited = torch.tensor(sampling_timesteps(linear, STEPS, name))
    figure, (panel,) = panels(f"Timesteps {name}: {STEPS} of {T} timesteps")
    for other in TIMESTEPS:
        t = torch.tensor(sampling_timesteps(linear, STEPS, other))
        panel.plot(t / T, linear.log_snr(t), "|", color=GREY, markersize=12)
    panel.plot(*_log_snr(linear), color="0.6", linewidth=1)
    share, height = visited / T, linear.log_snr(visited)
    panel.plot(share, height, "o", color=ACCENT, markersize=5)
    sides = {"color": ACCENT, "clip_on": False, "markersize": 9, "linestyle": ""}
    panel.plot(share, torch.full_like(share, -11.5), marker=2, **sides)
    panel.plot(torch.full_like(share, -0.02), height, marker=1, **sides)
    panel.set(xlabel="t/T", ylabel="log SNR", xlim=(-0.02, 1.02), ylim=(-11.5, 10))
    return figure
