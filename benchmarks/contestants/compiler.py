"""Compiled steps of fromnoise, and compiled blocks of its networks."""

from collections.abc import Callable, Mapping
from typing import Any

import ours
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from work import Work

from fromnoise.networks.layers import ResidualBlock
from fromnoise.training import precision

LAST = torch.channels_last


class Upsampled(nn.Module):
    """Upsampling, convolution, GroupNorm and SiLU, which the compiler may fuse badly."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(min(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,2H,2W)."""
        return F.silu(self.norm(self.conv(F.interpolate(x, scale_factor=2.0))))


class Normalised(nn.Module):
    """GroupNorm, SiLU, convolution. last: convert the output of GroupNorm to channels last."""

    def __init__(self, channels: int, *, last: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(32, channels), channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.last, self.layout = last, ""

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → the same."""
        x = self.norm(x)
        self.layout = layout_of(x)
        return self.conv(F.silu(x.contiguous(memory_format=LAST) if self.last else x))


def residual(channels: int) -> nn.Module:
    """Return a residual block of the paper's network whose time embedding is zero."""
    block = ResidualBlock(channels, channels, 4, norm=lambda c: nn.GroupNorm(min(32, c), c))
    return _WithoutTime(block)


class _WithoutTime(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, x.new_zeros(len(x), 4))


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "residual": residual,
    "upsampled": Upsampled,
    "normalised": Normalised,
}


def training_step(*, inductor: Mapping[str, Any] | None = None, **options: Any) -> Work:
    """Return the step of `ours`. inductor: options that replace those of fromnoise."""
    if inductor is not None:
        precision.OPTIONS = dict(inductor)
    return ours.training_step(**options)


def block(
    *, block: str, channels: int, side: int, batch_size: int, device: str = "cpu",
    inductor: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None,
) -> Work:  # fmt: skip
    """Return a forward and backward pass in bf16, channels last; eager if `inductor` is None.

    `how` has the memory layout of the gradients of the input and of the convolutions' weights.
    """
    torch.manual_seed(0)
    module = BLOCKS[block](channels, **(options or {})).to(device, memory_format=LAST)
    x = torch.randn(batch_size, channels, side, side, device=device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=LAST).requires_grad_()
    if inductor is not None:
        module.compile(dynamic=False, backend=precision.BACKEND)

    def once() -> None:
        x.grad = None
        module.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = module(x).float().square().mean()
        loss.backward()

    def compiled() -> None:
        from torch._inductor import config

        known = {name: value for name, value in (inductor or {}).items() if hasattr(config, name)}
        with config.patch(known):
            once()

    step = once if inductor is None else compiled
    step()
    of_weights = {layout_of(p.grad) for p in module.parameters() if p.ndim == 4}
    how = f"{'eager' if inductor is None else 'compiled'}, gradients of the input in "
    how += f"{layout_of(x.grad)}, of the weights in {' and '.join(sorted(of_weights))}"
    if isinstance(module, Normalised) and inductor is None:
        how += f"; GroupNorm returned {module.layout}"
    return Work(how, batch_size, step, device)


def layout_of(x: Tensor | None) -> str:
    """Return the name of the memory layout."""
    assert x is not None
    last, first = x.is_contiguous(memory_format=LAST), x.is_contiguous()
    return "either layout" if last and first else "channels last" if last else "channels first"
