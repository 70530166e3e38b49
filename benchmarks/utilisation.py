"""How much of what a device can do at most a network makes use of.

Model FLOP utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): the floating point
operations that the network's equations ask for, over the seconds that they took, over the device's
peak. What is computed twice to save memory counts once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fromnoise.networks import NETWORKS

BF16_PEAK = {  # name as torch has it → products of dense bf16 matrices, flop/s, by the data sheet
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
}


def device_name(device: str) -> str:
    """As torch names a GPU; `cpu` is "cpu"."""
    return device if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def counter() -> FlopCounterMode:
    """Torch's own, with the fused attention of a CPU, which 2.15 is the first to count."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    gradient = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    own = {
        fused: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        gradient: lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v),
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def operations(
    *, network: str, options: Mapping[str, Any], side: int, training: bool, batch_size: int = 1
) -> int:
    """Floating point operations of a forward pass, and of its gradient if `training`.

    Nothing is computed: on torch's `meta` device tensors have shapes only, and attention is two
    products whose gradient is four.
    """
    with torch.device("meta"), counter() as counting:
        built = NETWORKS[network](**options)
        x = torch.empty(batch_size, built.image_channels, side, side)
        cond = torch.empty(batch_size, built.cond_dim) if built.cond_dim else None
        output = built(x, torch.zeros(batch_size, dtype=torch.long), cond)
        if training:
            output.sum().backward()
    return counting.get_total_flops()


def utilisation(flop_per_second: float, device: str) -> str:
    """In words: what is reached and, of a GPU, the share; "unknown" where BF16_PEAK lacks it."""
    reached = f"{flop_per_second / 1e12:.3g} Tflop/s"
    if (name := device_name(device)) == "cpu":
        return reached
    if (peak := BF16_PEAK.get(name)) is None:
        return f"{reached}; model FLOP utilisation unknown, for want of the bf16 peak of {name}"
    share = f"{100 * flop_per_second / peak:.1f} %"
    return f"{reached}; model FLOP utilisation {share} of the bf16 peak of {name}"
