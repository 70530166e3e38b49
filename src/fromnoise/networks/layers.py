"""Layers and checks that several networks share."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(t: Tensor, width: int, layout: Literal["halves", "interleaved"] = "halves") -> Tensor:
    """Return sines and cosines of t at geometric frequencies: (B,) → float32 (B, width).

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


class Dropout(nn.Dropout):
    """`drop` in training, the identity in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same."""
        return drop(input, self.p) if self.training else input


def drop(x: Tensor, p: float) -> Tensor:
    """Set elements to 0 with probability p, and divide the others by 1−p.

    A CPU draws random numbers one by one, and one for each element takes longer than the
    convolution that follows. So on a CPU 64 random bits serve four elements: p is rounded to a
    multiple of 2⁻¹⁶, and the scale is that of the rounded p, so that the mean is exact.
    """
    if p == 0 or x.device.type != "cpu":
        return F.dropout(x, p)
    with torch.no_grad():
        dropped = min(round(p * 2**16), 2**16 - 1)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = bits.view(torch.int16)[: x.numel()]  # −2¹⁵..2¹⁵−1
        kept = torch.tensor(2**16 / (2**16 - dropped), dtype=x.dtype)
        factor = torch.where(numbers >= dropped - 2**15, kept, torch.zeros_like(kept))
        factor = factor.as_strided(x.shape, torch.empty_like(x).stride())  # in x's layout
    return x * factor


FEW_TOKENS = 512


def attend(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Return softmax(q·kᵀ/√d) v, with dropout on the weights. q, k, v: (B,heads,N,d) → the same.

    Fused, so that the N×N weights are never stored. But on a CPU, few tokens in half precision are
    twice as fast in separate products (docs/performance.md), which also round q·kᵀ to half; and a
    CPU has no fused dropout.
    """
    few_in_half = q.element_size() == 2 and k.shape[2] <= FEW_TOKENS
    if q.device.type == "cpu" and (few_in_half or dropout > 0):
        weights = drop((q * q.shape[3] ** -0.5 @ k.mT).softmax(dim=3), dropout)
        return (v.mT @ weights.mT).mT
    q, k, v = (each if each.stride(3) == 1 else each.contiguous() for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class Attention(nn.Module):
    """GN, then softmax(q·k/√(C/heads)) v over all pixels for each of `heads` parts, + the input.

    The rows of `qkv` are those of q, k and v in turn, and in each of them head after head.
    """

    def __init__(self, norm: nn.GroupNorm, *, heads: int = 1) -> None:
        super().__init__()
        channels = norm.num_channels
        self.heads = heads
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * channels)  # a 1×1 convolution, pixels as tokens
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        qkv = _pixelwise(self.qkv, self.norm(x)).flatten(2).mT  # (B,HW,3C)
        q, k, v = qkv.unflatten(2, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        h = attend(q, k, v).transpose(1, 2).flatten(2).mT  # (B,C,HW)
        return x + _pixelwise(self.out, h.reshape(x.shape))


def _pixelwise(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply the layer to the channels of every pixel: (B,C,H,W) → (B,C',H,W).

    As a 1×1 convolution a CPU need not move them; elsewhere channels last keeps them together.
    """
    if x.device.type == "cpu":
        return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
    return layer(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])


def check_size(height: int, width: int, multiple: int, largest: float = math.inf) -> None:
    """Raise ValueError for sides that are no multiples of `multiple`, or longer than `largest`."""
    if all(0 < n <= largest and n % multiple == 0 for n in (height, width)):
        return

    def around(n: int) -> tuple[int, int]:
        below = max(n // multiple, 1) * multiple
        above = max(math.ceil(n / multiple), 1) * multiple
        return int(min(below, largest)), int(min(above, largest))

    smaller, larger = zip(around(height), around(width), strict=True)
    near = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys([smaller, larger]))
    limit = "" if math.isinf(largest) else f" up to {largest:g}"
    raise ValueError(
        f"image size {height}x{width} does not fit this network: both sides must be multiples of "
        f"{multiple}{limit}; nearest: {near}"
    )


def check_cond(cond: Tensor | None, batch_size: int, cond_dim: int) -> None:
    """Raise ValueError unless cond is None or of shape (batch_size, cond_dim)."""
    if cond is None:
        return
    if cond_dim == 0:
        raise ValueError("this network takes no condition. Leave it out: cond_dim is 0.")
    if tuple(cond.shape) != (batch_size, cond_dim):
        raise ValueError(
            f"the condition must be of shape ({batch_size}, {cond_dim}), one row for each image, "
            f"not {tuple(cond.shape)}"
        )


def add_cond(time: Tensor, layer: nn.Linear | None, cond: Tensor | None) -> Tensor:
    """Add the embedding of the labels to that of t (B,D). `layer` has no bias, so 0 is ∅."""
    check_cond(cond, len(time), 0 if layer is None else layer.in_features)
    if cond is None or layer is None:
        return time
    return time + layer(cond.to(layer.weight.dtype))


def zero_init(module: nn.Module) -> nn.Module:
    """Initialise a layer to zero, so that its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
