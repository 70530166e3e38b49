"""The number format and memory layout that `auto` means, and networks that compute in bfloat16.

fp32 is IEEE float32 in training, sampling and evaluation: nothing computes in TF32.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise.diffusion import Denoiser

Precision = Literal["fp32", "bf16"]


# Ratios are medians over interleaved rounds: benchmarks/network_speed.py --computations
AUTO = {  # device and precision → channels last in a training, without and with group norm
    # Not measured here. Known from PyTorch's guides: Tensor Cores compute on interleaved channels,
    # and for channels first cuDNN transposes before and after a convolution.
    ("cuda", "bf16"): (True, True),
    # Not measured here. A GPU without bf16 gains little from interleaved channels in fp32.
    ("cuda", "fp32"): (False, False),
    # Not measured here. Known from AMD EPYC with AVX-512 bf16 (docs/performance.md): bf16 products
    # are about twice as fast as fp32. GroupNorm over interleaved channels takes 0.9 to 24 times as
    # long, by its size. The timings of earlier versions chose channels first for `stacked` and
    # `fashion-mnist`, last for `dense_attention`, `linear_attention` and `context` with batch norm,
    # and either for the paper's network. Compiling `fashion-mnist` took 86 to 111 s and saved 5 to
    # 15 % of a step in channels last, nothing in channels first.
    ("cpu", "bf16"): (True, False),
    # Measured on AMD EPYC (Milan, AVX2), one thread: bf16 takes 12 times as long (`digits`). A
    # training step in channels last takes, of one in channels first: `context` 1.32, `folder` 1.16,
    # `stacked` 1.00 and 1.08, `dense_attention` 1.04, the paper's network 1.03, `fashion-mnist`
    # 1.00, `linear_attention` 0.99, `shapes-small` 0.98, `digits` 0.94.
    # A forward pass alone takes 0.82 to 1.00, so a loaded model samples in channels last.
    ("cpu", "fp32"): (False, False),
}


def channels_last(device: torch.device, precision: str, network: nn.Module) -> bool:
    """Return whether the memory layout of a network is channels last, by the table.

    fp16 is like bf16. Other devices are not measured.
    """
    grouped = any(isinstance(module, nn.GroupNorm) for module in network.modules())
    key = device.type, "fp32" if precision == "fp32" else "bf16"
    return AUTO.get(key, (False, False))[grouped]


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether the device has bf16 instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
        return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def default_precision(device: torch.device) -> Precision:
    """Return the precision that `auto` means on a device, in training and in sampling."""
    return "bf16" if computes_in_bf16(device) else "fp32"


@contextmanager
def without_tf32(*, benchmark: bool | None = None) -> Iterator[None]:
    """Compute fp32 in IEEE float32, and restore the settings of torch afterwards.

    By default CUDA rounds the factors of convolutions to the 10 bits of TF32, and a program may
    have allowed it for matrix products, in CUDA and in oneDNN. benchmark: of cuDNN, None to leave
    it. Within, torch finds its older switches and the newer ones in agreement.
    """
    backends, tried = torch.backends, torch.backends.cudnn.benchmark
    cudnn, onednn = backends.cudnn, backends.mkldnn
    switches = (cudnn.conv, cudnn.rnn, backends.cuda.matmul, onednn.conv, onednn.rnn, onednn.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # a newer switch allows what the older one does not
        products = "highest"
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    for switch in switches:
        switch.fp32_precision = "ieee"
    cudnn.benchmark = tried if benchmark is None else benchmark
    try:
        yield
    finally:
        cudnn.benchmark = tried
        cudnn.allow_tf32 = before[1] == "tf32"
        torch.set_float32_matmul_precision(products)
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def in_bf16(denoiser: Denoiser) -> Denoiser:
    """Return a copy for inference that computes as training does in bf16.

    Products are in bfloat16, sums are not. The weights of convolutions and matrix products are cast
    once instead of at every step; on CUDA GroupNorm returns bfloat16 too. x_t and the prediction
    stay in float32.
    """
    device = next(denoiser.parameters()).device
    network = copy.deepcopy(denoiser.network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(torch.bfloat16)
    if not channels_last(device, "bf16", network):
        network.to(memory_format=torch.contiguous_format)
    if device.type == "cuda":
        norm_in_bf16(network)
    return denoiser.with_network(_Autocast(network))


def norm_in_bf16(network: nn.Module) -> None:
    """Let GroupNorm return bfloat16, its statistics in float32.

    Autocast on CUDA makes its result and that of the SiLU after it float32, which doubles the
    memory traffic.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, _Autocast(child.to(torch.bfloat16), enabled=False))


class _Autocast(nn.Module):
    """A module inside autocast; if not `enabled`, outside it with a bfloat16 input."""

    def __init__(self, module: nn.Module, *, enabled: bool = True) -> None:
        super().__init__()
        self.module, self.enabled = module, enabled

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.enabled):
            return self.module(x if self.enabled else x.to(torch.bfloat16), *others)
