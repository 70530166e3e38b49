"""Compute the model FLOP utilisation of a network: its share of the peak of a device.

Chowdhery et al. 2022 (arXiv:2204.02311), appendix B: the floating point operations of the network's
equations per second, divided by the device's peak. Operations that are repeated to save memory
count once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fromnoise.networks import NETWORKS

BF16_PEAK = {  # name in torch → flop/s of dense bf16 matrix products, from the data sheet
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
    """Return torch's name of a GPU, or "cpu"."""
    return device if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def counter() -> FlopCounterMode:
    """Return torch's counter, with the fused attention of a CPU, which torch < 2.15 lacks."""
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
    """Count the floating point operations of a forward pass, and of its gradient if `training`.

    Nothing is computed: tensors on torch's `meta` device have no data. Attention counts as two
    products, and its gradient as four.
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
    """Return the rate as text and, for a GPU, its share of the peak, if BF16_PEAK has it."""
    reached = f"{flop_per_second / 1e12:.3g} Tflop/s"
    if (name := device_name(device)) == "cpu":
        return reached
    if (peak := BF16_PEAK.get(name)) is None:
        return f"{reached}; model FLOP utilisation unknown: BF16_PEAK has no entry for {name}"
    share = f"{100 * flop_per_second / peak:.1f} %"
    return f"{reached}; model FLOP utilisation {share} of the bf16 peak of {name}"
