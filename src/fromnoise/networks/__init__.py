"""The architectures, each (x_t, t, cond) → output. Imports torch, and nothing of ours outside."""

from fromnoise.networks.ddpm import DDPM
from fromnoise.networks.layers import check_size

NETWORKS: dict[str, type[DDPM]] = {"ddpm": DDPM}

__all__ = ["DDPM", "NETWORKS", "check_size"]
