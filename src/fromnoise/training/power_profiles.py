"""Power-function averages: their lengths, and the combination of several into another one.

Karras et al. 2023 (arXiv:2312.02696), section 3.1 and appendix C. Time t counts updates of the
weights. The average of exponent γ at t has for the weights of time τ the coefficient

    p_{γ,t}(τ) = (γ+1) τ^γ / t^{γ+1}  for 0 ≤ τ ≤ t, and 0 elsewhere,

its profile. The profile of an EMA with a constant decay has a constant width; this one has a
constant shape and a width that grows with t. Everything here is float64.
"""

import math

import numpy as np

from fromnoise.config.schema import LENGTHS, LONGEST


def gamma_of(length: float) -> float:
    """Return the exponent γ > 0 of the profile of a relative length.

    The length is the standard deviation of the profile over t, σ_rel = √(γ+1) / ((γ+2) √(γ+3)).
    With u = γ + 2 and s = σ_rel⁻², u is the largest root of u³ + u² − s u + s = 0, in the
    trigonometric form for a cubic with three real roots.
    length: σ_rel in (0, 1/√12). Raises ValueError outside.
    """
    if not 0 < length < LONGEST:
        raise ValueError(f"length = {length:g}: {LENGTHS}")
    s = length**-2
    p, q = -s - 1 / 3, 2 / 27 + 4 * s / 3  # w³ + p w + q = 0, w = u + 1/3
    angle = math.acos(1.5 * q / p * math.sqrt(-3 / p)) / 3
    return 2 * math.sqrt(-p / 3) * math.cos(angle) - 1 / 3 - 2


def inner_product(
    gamma: np.ndarray | float,
    t: np.ndarray | float,
    other_gamma: np.ndarray | float,
    other_t: np.ndarray | float,
) -> np.ndarray:
    """Return ∫ p_{γ_a,t_a}(τ) p_{γ_b,t_b}(τ) dτ.

    It is (γ_a+1)(γ_b+1) / (γ_a+γ_b+1) · (t_min/t_max)^{γ of t_max} / t_max: with the ratio of
    times, no power overflows. γ > −1/2, t > 0; float64 arrays that broadcast.
    """
    first, last = np.minimum(t, other_t), np.maximum(t, other_t)
    later_gamma = np.where(np.greater(t, other_t), gamma, other_gamma)
    scale = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1)
    return scale * (first / last) ** later_gamma / last


def coefficients(
    gammas: np.ndarray, times: np.ndarray, gamma: float, t: float
) -> tuple[np.ndarray, float]:
    """Approximate the profile of γ at t by Σ_i x_i p_i of other profiles, in least squares.

    Solves the normal equations A x = b of inner products (appendix C), with the constraint
    Σ_i x_i = 1, so that the average of constant weights is these weights.
    gammas and times: (N,), N ≥ 1. Returns x (N,) and the relative error of the profile,
    ‖Σ_i x_i p_i − p_{γ,t}‖ / ‖p_{γ,t}‖, 0 if it is one of the N.
    """
    A = inner_product(gammas[:, None], times[:, None], gammas, times)
    b = inner_product(gammas, times, gamma, t)
    unit = 1 / np.sqrt(np.diagonal(A))  # scales the profiles to norm 1
    A, b = unit[:, None] * A * unit, unit * b
    # profiles are equal if all steps between two snapshots were skipped. They share a coefficient
    solutions, *_ = np.linalg.lstsq(A, np.stack([b, unit], axis=1), rcond=None)
    x, direction = solutions.T  # direction: changes Σ_i x_i at the least cost
    x = x + direction * (1 - unit @ x) / (unit @ direction)
    target = float(inner_product(gamma, t, gamma, t))
    squared = (target - 2 * x @ b + x @ A @ x) / target
    return unit * x, math.sqrt(max(squared, 0.0))  # rounding may make it negative
