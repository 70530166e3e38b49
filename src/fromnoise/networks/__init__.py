"""The architectures, each (x_t, t, cond) → output. Imports torch, and nothing of ours outside.

Every one takes images (B,C,H,W), t ∈ {0..T−1} as (B,) and labels (B,K) in {−1, 0, +1} or None, and
returns (B,C,H,W), or (B,2C,H,W) with `learned_variance`. Zeros, and None, mean "nothing said".
With `self_conditioning` it takes (B,2C,H,W): x_t, and an earlier x̂_0 of its own, or zeros.
`regions` are the classes of its repeated blocks, which `training.compile` compiles one by one.
"""

from collections.abc import Callable
from typing import Any

from fromnoise.networks.context import ContextUNet
from fromnoise.networks.ddpm import DDPM
from fromnoise.networks.dense_attention import DenseAttention
from fromnoise.networks.layers import check_size
from fromnoise.networks.linear_attention import LinearAttentionUNet
from fromnoise.networks.stacked import Stacked

NETWORKS: dict[str, Callable[..., Any]] = {
    "ddpm": DDPM,
    "dense_attention": DenseAttention,
    "stacked": Stacked,
    "linear_attention": LinearAttentionUNet,
    "context": ContextUNet,
}

__all__ = [
    "DDPM",
    "NETWORKS",
    "ContextUNet",
    "DenseAttention",
    "LinearAttentionUNet",
    "Stacked",
    "check_size",
]
