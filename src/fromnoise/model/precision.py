"""Sampling precision: a copy of the network that computes in bfloat16."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fromnoise.diffusion import Denoiser

Precision = Literal["fp32", "bf16"]
PRODUCTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether the device has bf16 instructions.

    The answer depends on the hardware only and is not timed, so it is reproducible.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
        return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def default_precision(device: torch.device) -> Precision:
    """Return the precision that `auto` means on a device."""
    return "bf16" if computes_in_bf16(device) else "fp32"


def in_bf16(denoiser: Denoiser) -> Denoiser:
    """Return a copy for inference that computes as training does in bf16.

    Products are in bfloat16, sums are not. The weights of convolutions and matrix products are cast
    once instead of at every step; on CUDA GroupNorm returns bfloat16 too. x_t and the prediction
    stay in float32.
    """
    device = next(denoiser.parameters()).device
    network = copy.deepcopy(denoiser.network)
    for module in network.modules():
        if isinstance(module, PRODUCTS):
            module.to(torch.bfloat16)
    suit_group_norms(network, device.type)
    return denoiser.with_network(_Autocast(network))


def suit_group_norms(network: nn.Module, device: str) -> None:
    """Choose the fastest layout and type of GroupNorm on a device, "cpu" or "cuda".

    On a CPU, statistics over groups of interleaved channels take longer than the convolutions, so
    the layout becomes channels first. On CUDA, autocast makes the result of GroupNorm and of the
    SiLU after it float32, which doubles the memory traffic, so the result becomes bfloat16. The
    statistics stay in float32.
    """
    if device == "cpu" and any(isinstance(m, nn.GroupNorm) for m in network.modules()):
        network.to(memory_format=torch.contiguous_format)
    if device != "cuda":
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, _GroupNormInHalf(child.to(torch.bfloat16)))


class _GroupNormInHalf(nn.Module):
    """GroupNorm outside autocast."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.norm(x.to(torch.bfloat16)))


class _Autocast(nn.Module):
    """A network inside autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, t, cond)
