"""Pieces that several networks share."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


def sinusoid(t: Tensor, width: int, layout: Literal["halves", "interleaved"] = "halves") -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies. t: (B,) → float32 (B, width).

    `halves`: frequencies 10000^(−i/(d/2−1)), all sines and then all cosines, as in the code of
    Ho et al. 2020. `interleaved`: 10000^(−2i/d), sine and cosine in turn, as in Vaswani et al.
    2017 (arXiv:1706.03762), section 3.5. `width` is even, and at least 4.
    """
    half = width // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    last = half - 1 if layout == "halves" else half
    frequency = torch.exp(-math.log(10000.0) * i / last)
    angle = t.to(torch.float32)[:, None] * frequency  # (B, d/2)
    if layout == "halves":
        return torch.cat([angle.sin(), angle.cos()], dim=1)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def check_size(height: int, width: int, multiple: int) -> None:
    """Refuse an image size that is not a positive multiple of `multiple` on both sides."""
    if height % multiple == 0 and width % multiple == 0 and min(height, width) > 0:
        return

    def around(n: int) -> tuple[int, int]:
        below = max(n // multiple, 1) * multiple
        return below, max(math.ceil(n / multiple), 1) * multiple

    smaller, larger = zip(around(height), around(width), strict=True)
    near = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys([smaller, larger]))
    raise ValueError(
        f"image size {height}x{width} does not fit this network: its levels halve the image to "
        f"1/{multiple}, so both sides must be multiples of {multiple}; nearest: {near}"
    )


def zero_init(module: nn.Module) -> nn.Module:
    """Start a layer at zero, so that the residual branch it closes is the identity at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def check_cond(cond: Tensor | None, cond_dim: int) -> None:
    """Refuse a condition that a network was not built for."""
    if cond is None:
        return
    if cond_dim == 0:
        raise ValueError("this network takes no condition: it was built with cond_dim = 0")
    if cond.ndim != 2 or cond.shape[1] != cond_dim:
        raise ValueError(f"the condition must be of shape (B, {cond_dim}), not {tuple(cond.shape)}")
