"""Noise schedules: functions from T to β_1 … β_T, float64 (T,).

Every β must lie in (0, 1), except that β_T may be 1: otherwise `NoiseSchedule` raises ValueError.
A function raises ValueError for options out of range. To add one, see CONTRIBUTING.md.

Equations and schedules without a source are those of Ho, Jain and Abbeel 2020 (arXiv:2006.11239).
The linear schedule is in the paper, the others are in its code.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def linear(T: int, *, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Return β_t on a straight line from `beta_1` to `beta_T` (section 4)."""
    return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)


def linear_rescaled(T: int, *, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Return `linear` times 1000/T, so that ᾱ_T is about the same for any T.

    From the code of Nichol and Dhariwal 2021 (arXiv:2102.09672). `beta_1` and `beta_T` are those of
    T = 1000. Raises ValueError unless T > 1000·max(beta_1, beta_T), so that every β is below 1.
    """
    largest = max(beta_1, beta_T)
    if 1000 * largest >= T:
        raise ValueError(
            f"T = {T} is too small for linear_rescaled, whose largest β is 1000/T·{largest:g}. "
            f"Increase T to more than {1000 * largest:g}."
        )
    return linear(T, beta_1=beta_1, beta_T=beta_T) * (1000 / T)


def quadratic(T: int, *, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Return β_t whose square roots are on a straight line (`scaled_linear` in diffusers)."""
    if min(beta_1, beta_T) < 0:
        raise ValueError(
            f"quadratic takes the square roots of beta_1 and beta_T, which must be at least 0, not "
            f"{beta_1:g} and {beta_T:g}"
        )
    return torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64).square()


def constant(T: int, *, beta: float = 0.02) -> Tensor:
    """Return β_t = `beta`."""
    return torch.full((T,), beta, dtype=torch.float64)


def warmup(T: int, *, beta_1: float = 1e-4, beta_T: float = 0.02, fraction: float = 0.1) -> Tensor:
    """Return β_t that rise from `beta_1` to `beta_T` over the first `fraction` of the steps.

    Then they stay at `beta_T`. fraction ∈ (0, 1], or ValueError; the paper's code has 0.1 and 0.5.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], not {fraction:g}")
    rising = max(1, int(T * fraction))
    betas = constant(T, beta=beta_T)
    betas[:rising] = linear(rising, beta_1=beta_1, beta_T=beta_T)
    return betas


def jsd(T: int) -> Tensor:
    """Return β_t = 1/(T−t+1), so that ᾱ_t = 1 − t/T; with β_T = 1, x_T is pure noise.

    Sohl-Dickstein et al. 2015 (arXiv:1503.03585), section 2.4.1, for a binomial process.
    """
    return 1 / torch.arange(T, 0, -1, dtype=torch.float64)


def cosine(T: int, *, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """Return β of ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · π/2), with s = `offset`.

    Nichol and Dhariwal 2021 (arXiv:2102.09672), Eq. 17; β_t is clamped to `beta_max` near t = T.
    """
    t = torch.arange(T + 1, dtype=torch.float64) / T
    return _from_alpha_bar(torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2, beta_max)


def sigmoid(
    T: int, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0, beta_max: float = 0.999
) -> Tensor:
    """Return β of ᾱ_t = (f(1) − f(t/T)) / (f(1) − f(0)), with f a sigmoid.

    f(u) = 1/(1 + exp(−(start + u (end − start))/τ)): Jabri, Fleet and Chen 2022 (arXiv:2212.11972),
    Algorithm 1. β_t is clamped to `beta_max` near t = T. start < end and tau > 0, or ValueError.
    """
    if not start < end or not tau > 0:
        raise ValueError(
            f"sigmoid needs start < end and tau > 0, not start {start:g}, end {end:g}, tau {tau:g}"
        )
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.sigmoid((start + u * (end - start)) / tau)
    return _from_alpha_bar(f[-1] - f, beta_max)


def flow(T: int) -> Tensor:
    """Return β of α : σ = 1−τ : τ, τ = t/T, the straight line of flow matching; ᾱ_T = 0.

    Lipman et al. 2023 (arXiv:2210.02747); Liu et al. 2023 (arXiv:2209.03003), with their τ
    reversed. x_t is (1−τ) x_0 + τ ε, divided by √((1−τ)² + τ²), so that α² + σ² = 1 as everywhere
    here.
    """
    tau = torch.arange(T + 1, dtype=torch.float64) / T
    return _from_alpha_bar((1 - tau).square() / ((1 - tau).square() + tau.square()), beta_max=1.0)


def edm(T: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return β for σ/α from `sigma_min` (t = 1) to `sigma_max` (T), its ρ-th root linear in t.

    Karras et al. 2022 (arXiv:2206.00364), Eq. 5 with T levels; their σ is σ/α here, and their x is
    x_t/α. 0 < sigma_min < sigma_max and rho > 0, or ValueError.
    """
    if not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError(
            f"edm needs 0 < sigma_min < sigma_max and rho > 0, not sigma_min {sigma_min:g}, "
            f"sigma_max {sigma_max:g}, rho {rho:g}"
        )
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    noise = torch.linspace(*ends, T, dtype=torch.float64).flip(0) ** (2 * rho)  # (σ/α)²
    before = torch.cat([noise.new_zeros(1), noise[:-1]])
    return (noise - before) / (1 + noise)  # 1 − ᾱ_t/ᾱ_{t−1}, with all digits


def custom(T: int, *, betas: Sequence[float]) -> Tensor:
    """Return the given β_1 … β_T."""
    return torch.tensor(list(betas), dtype=torch.float64)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    each.__name__: each
    for each in (
        *(linear, linear_rescaled, quadratic, constant, warmup, jsd, cosine, sigmoid),
        *(flow, edm, custom),
    )
}


def with_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Return the β of √ᾱ'_t = (√ᾱ_t − √ᾱ_T) · √ᾱ_1/(√ᾱ_1 − √ᾱ_T), where x_T is pure noise.

    Lin et al. 2024 (arXiv:2305.08891), Algorithm 1. ᾱ_1 stays, and β_T = 1. betas: (T,), T ≥ 2.
    """
    alpha = torch.cumprod(1 - betas, dim=0).sqrt()  # √ᾱ_t
    if len(alpha) < 2 or alpha[0] == alpha[-1]:
        raise ValueError("zero_terminal_snr needs T ≥ 2 and ᾱ_T below ᾱ_1. Increase T.")
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return _from_alpha_bar(torch.cat([alpha.new_ones(1), alpha.square()]), beta_max=1.0)


def _from_alpha_bar(f: Tensor, beta_max: float) -> Tensor:
    """Return β_t = 1 − f(t)/f(t−1), at most `beta_max`; f: (T+1,), any multiple of ᾱ."""
    return (1 - f[1:] / f[:-1]).clamp(max=beta_max)
