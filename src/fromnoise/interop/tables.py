"""Read the schedule from the tables of a file, in any precision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion import SCHEDULES


def is_half(table: Tensor) -> bool:
    """Return whether a table has 16 bits per number: two to three digits."""
    return table.element_size() < 4


def tolerance(table: Tensor) -> tuple[float, float]:
    """Return twice the largest relative and absolute errors of rounding."""
    info = torch.finfo(table.dtype)
    return 2 * info.eps, 2 * info.smallest_normal * info.eps


def same(table: Tensor, exact: Tensor) -> bool:
    """Return whether a table equals these numbers up to the rounding of its dtype."""
    rtol, atol = tolerance(table)
    exact = exact.to(table.dtype).double()  # with the overflow of fp16
    return table.shape == exact.shape and torch.allclose(
        table.double(), exact, rtol=rtol, atol=atol
    )


def read_schedule(beside: Mapping[str, Tensor]) -> tuple[int, dict[str, Any], Tensor]:
    """Return T, a schedule by its name or its β, and β in float64.

    beside: `betas` and, if the file has them, √ᾱ and √(1−ᾱ). If they match a schedule with a name
    here, its exact numbers are used. A table of another schedule in half precision has two or three
    digits: a β near 1 is computed from √ᾱ, because it would round to 1.
    """
    table = beside["betas"]
    T = len(table)
    for name in ("linear", "linear_rescaled", "cosine", "sigmoid"):
        if name == "linear_rescaled" and T <= 20:  # its β would be 1
            continue
        betas = SCHEDULES[name](T)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        exact = {
            "betas": betas,
            "sqrt_alphas_cumprod": alpha_bar.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - alpha_bar).sqrt(),
        }
        if all(same(beside[key], each) for key, each in exact.items() if key in beside):
            return T, {"name": name}, betas
    betas = table.double()
    if is_half(table) and "sqrt_alphas_cumprod" in beside:
        alpha = beside["sqrt_alphas_cumprod"].double()
        ratio = alpha / torch.cat([alpha.new_ones(1), alpha[:-1]])
        betas = torch.where(betas < 0.5, betas, (1 - ratio.square()).clamp(max=0.9999))
    return T, {"name": "custom", "betas": betas.tolist()}, betas
