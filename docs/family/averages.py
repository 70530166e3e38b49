"""Draw the averages of the weights: the weight of each training step in the average."""

import numpy as np
from matplotlib.figure import Figure
from style import ACCENT, GREY, SECOND, THIRD, panels

from fromnoise.training.ema import coefficients, gamma_of

STEPS = 14_000
SHARE = np.linspace(0, 1, 701)[1:]  # of the training
LENGTHS = {0.02: ACCENT, 0.05: SECOND, 0.1: THIRD, 0.2: "0.4"}


def decay() -> Figure:
    """Draw the weight of each step under a constant decay after a warm-up."""
    figure, (panel,) = panels(f"ema_decay: the weight of each of {STEPS:,} steps")
    for d, colour in ((0.999, SECOND), (0.9999, ACCENT)):
        n = np.arange(STEPS)
        decays = np.minimum(d, (1 + n) / (10 + n))
        kept = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)  # of step n, until the end
        panel.plot((n + 1) / STEPS, (1 - decays) * kept * STEPS, color=colour, label=f"{d:g}")
    _of_a_training(panel, top=12)
    return figure


def lengths() -> Figure:
    """Draw the profiles of the power functions of several lengths."""
    figure, (panel,) = panels("ema_lengths: the weight of each step, for any number of steps")
    for length, colour in LENGTHS.items():
        panel.plot(SHARE, profile(gamma_of(length), 1.0), color=colour, label=f"{length:g}")
    _of_a_training(panel, top=12)
    return figure


def afterwards() -> Figure:
    """Draw a profile that is made after the training, from the snapshots of two others."""
    figure, (panel,) = panels("fromnoise ema: length 0.15 from 20 snapshots each of 0.05 and 0.1")
    given = [(gamma_of(length), time) for length in (0.05, 0.1) for time in np.arange(1, 21) / 20]
    gammas, times = np.array(given).T
    x, error = coefficients(gammas, times, gamma_of(0.15), 1.0)
    for gamma, time in given:
        panel.plot(SHARE, profile(gamma, time), color=GREY, linewidth=0.6)
    made = sum(c * profile(*each) for c, each in zip(x, given, strict=True))
    panel.plot(SHARE, profile(gamma_of(0.15), 1.0), color="0.3", linewidth=3, label="exact")
    panel.plot(SHARE, made, color=ACCENT, label=f"from snapshots: error {100 * error:.1f} %")
    _of_a_training(panel, top=12)
    return figure


def profile(gamma: float, time: float) -> np.ndarray:
    """Return p(τ) = (γ+1) τ^γ / t^{γ+1} until t = `time`, and 0 after it."""
    return np.where(time >= SHARE, (gamma + 1) * (SHARE / time) ** gamma / time, 0)


def _of_a_training(panel, top: float) -> None:
    panel.set(xlabel="share of the training", ylabel="weight (uniform: 1)", xlim=(0, 1.01))
    panel.set_ylim(0, top)
    panel.legend(loc="upper left")
