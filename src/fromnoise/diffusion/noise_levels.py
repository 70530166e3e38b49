"""Noise levels: functions from the schedule to p_t, (T,), the probability of t in training.

`training.noise_levels` draws t from these. The first three do not change the expectation of the
loss, which is that of uniform p_t. Any other is a weighting: as in the papers, the expectation
weights the loss of t by p_t, without a factor 1/(T·p_t). Only the variational bound gets it.

p: float64, at least 0, with the sum 1. A ValueError for an option out of range begins with its key,
as in `noise_levels.std`. To add one, see CONTRIBUTING.md.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.diffusion.schedule import NoiseSchedule

LEAST_MASS = 1e-3  # with less in the table, nearly all draws would be at its end


def uniform(schedule: NoiseSchedule) -> Tensor:
    """Return p_t = 1/T. Each image draws its t independently."""
    return torch.full((schedule.T,), 1 / schedule.T, dtype=torch.float64)


def stratified(schedule: NoiseSchedule) -> Tensor:
    """Return p_t = 1/T. One t comes from each of `batch_size` equal parts of {1..T}."""
    return uniform(schedule)


def importance(schedule: NoiseSchedule) -> Tensor:
    """Return p_t = 1/T, until each t has ten losses; then p_t ∝ √E[L_t²].

    The loss has the factor 1/(T·p_t): see `LossHistory` in training/noise_levels.py.
    """
    return uniform(schedule)


def normal(schedule: NoiseSchedule, *, mean: float = 2.4, std: float = 2.4) -> Tensor:
    """Return p_t ∝ the mass of N(`mean`, `std`²) at the log-SNR of t.

    Karras et al. 2022 (arXiv:2206.00364), Table 1: ln(σ/α) ~ N(−1.2, 1.2²) is the default here, as
    the log-SNR is −2 ln(σ/α). The logit-normal τ of Esser et al. 2024 (arXiv:2403.03206), section
    3.1, for flow matching is mean = 0, std = 2.

    The cell of t lies between the midpoints to the neighbouring log-SNRs. The first and the last
    cell are symmetric about their log-SNR, so that the tails beyond the table are cut off. If ᾱ_T
    is 0, the cell of T is all below that of T−1.

    std > 0, or ValueError, also if less than `LEAST_MASS` of the mass lies in the table.
    """
    if not std > 0:
        raise ValueError(f"noise_levels.std of normal must be above 0, not {std:g}")
    edges = cells(schedule)
    z = (edges - mean) / std
    upper, lower = z[:-1], z[1:]
    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): on the side where Φ is small, the difference keeps its digits
    low, high = torch.where(lower > 0, -upper, lower), torch.where(lower > 0, -lower, upper)
    mass = (torch.erfc(-high / 2**0.5) - torch.erfc(-low / 2**0.5)) / 2
    if not mass.sum() > LEAST_MASS:
        raise ValueError(
            f"noise_levels.mean of normal is {mean:g}, too far from the log-SNRs of the schedule, "
            f"{edges[-1]:.3g} to {edges[0]:.3g}, for std = {std:g}. Choose a mean among them."
        )
    return mass / mass.sum()


def cells(schedule: NoiseSchedule) -> Tensor:
    """Return the falling edges of log-SNR cells, float64 (T+1,): cell t is from edge t−1 to t."""
    a = schedule.alpha_bar[1:]
    log_snr = a.log() - (1 - a).log()  # (T,); −∞ at T if ᾱ_T = 0
    finite = log_snr[log_snr.isfinite()]
    between = (finite[:-1] + finite[1:]) / 2
    if len(between) == 0:  # one level of noise: any cell will do
        edges = torch.cat([finite + 1, finite - 1])
    else:
        first, last = 2 * finite[0] - between[0], 2 * finite[-1] - between[-1]
        edges = torch.cat([first[None], between, last[None]])
    return torch.cat([edges, log_snr[len(finite) :]])


NOISE_LEVELS: dict[str, Callable[..., Tensor]] = {
    each.__name__: each for each in (uniform, stratified, importance, normal)
}
EVEN = ("uniform", "stratified", "importance")  # with the expectation of equal p_t
