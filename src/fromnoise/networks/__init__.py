"""The architectures, each (x_t, t, cond) → output: see `Network` for the contract.

Imports only torch and this folder.
"""

from collections.abc import Callable
from typing import Any

from fromnoise.networks.base import Network, check_size
from fromnoise.networks.context import ContextUNet
from fromnoise.networks.ddpm import DDPM
from fromnoise.networks.dense_attention import DenseAttention
from fromnoise.networks.linear_attention import LinearAttentionUNet
from fromnoise.networks.stacked import Stacked

NETWORKS: dict[str, Callable[..., Any]] = {
    "ddpm": DDPM,
    "dense_attention": DenseAttention,
    "stacked": Stacked,
    "linear_attention": LinearAttentionUNet,
    "context": ContextUNet,
}
