"""The network in bfloat16, for sampling where the machine computes in it."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fromnoise.diffusion import Denoiser

Precision = Literal["fp32", "bf16"]
Asked = Literal["auto", "fp32", "bf16"]  # auto: by what the device has
PRODUCTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for it; asked and not timed, so the answer stays."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
        return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def default_precision(device: torch.device) -> Precision:
    """What `auto` is there."""
    return "bf16" if computes_in_bf16(device) else "fp32"


def in_bf16(denoiser: Denoiser) -> Denoiser:
    """A copy that computes as training does in bf16, for inference: products are, sums are not.

    The weights of convolutions and matrix products are in bfloat16 once and for all instead of
    being cast at every step; on CUDA so is what GroupNorm returns. x_t and what is predicted stay
    in float32.
    """
    device = next(denoiser.parameters()).device
    network = copy.deepcopy(denoiser.network)
    for module in network.modules():
        if isinstance(module, PRODUCTS):
            module.to(torch.bfloat16)
    suit_group_norms(network, device.type)
    return denoiser.with_network(_Autocast(network))


def suit_group_norms(network: nn.Module, device: str) -> None:
    """Make the most of GroupNorm on such a device, "cpu" or "cuda".

    A CPU takes longer for statistics over groups of interleaved channels than for the convolutions,
    so there the channels come first. On CUDA autocast makes the result float32, and with it that
    of the SiLU behind it, which is twice as much to move; so there it is bfloat16 from now on, the
    statistics aside.
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
    """The normalisation outside autocast."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.norm(x.to(torch.bfloat16)))


class _Autocast(nn.Module):
    """The network inside autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, t, cond)
