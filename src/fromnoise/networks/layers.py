"""Layers that several networks share."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layout = Literal["halves", "interleaved", "periods"]


def sinusoid(t: Tensor, width: int, layout: Layout = "halves") -> Tensor:
    """Return sines and cosines of t at geometric frequencies: (B,) → float32 (B, width).

    `halves`: frequencies 10000^(−i/(d/2−1)), all sines and then all cosines, as in the code of
    Ho et al. 2020. `interleaved`: 10000^(−2i/d), sine and cosine in turn, as in Vaswani et al.
    2017 (arXiv:1706.03762), section 3.5. `periods`: 10000^(−2i/d) in the order of `halves`, by
    division by powers, with which published weights were trained. Multiplication by exponentials
    differs in float32: at t = 999 by the fourth decimal. `width` is even, ≥ 4 (2 for `periods`).
    """
    half = width // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    t = t.to(torch.float32)[:, None]
    if layout == "periods":
        angle = t / 10000.0 ** (i / half)  # (B, d/2)
    else:
        angle = t * torch.exp(-math.log(10000.0) * i / (half - (layout == "halves")))
    if layout == "interleaved":
        return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


# ---- dropout -------------------------------------------------------------------------------------

CACHED = 2**16  # words of 64 bits: what a core's cache holds
# of SplitMix64, as signed 64-bit integers
WEYL, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
INVERSE = -0xE217C1E66C88CC3  # of WEYL modulo 2⁶⁴


def mixed(x: Tensor) -> Tensor:
    """Return the hash of each 64-bit integer, int64; `rng.hashes` is `mixed(seed + i·WEYL)`.

    It is the same on every device. x is overwritten.
    """

    def shifted(bits: int) -> Tensor:  # as of unsigned integers
        return (x >> bits).bitwise_and_((1 << 64 - bits) - 1)

    x.bitwise_xor_(shifted(30)).mul_(MIX_1)
    x.bitwise_xor_(shifted(27)).mul_(MIX_2)
    return x.bitwise_xor_(shifted(31))


class Dropout(nn.Dropout):
    """Set elements to 0 with probability p, and divide the others by 1−p; only in training.

    p is rounded to a multiple of 2⁻¹⁶, and the scale is that of the rounded p, so that the mean is
    exact: a random number of 64 bits serves four elements. Within `dropout_keys`, the elements of
    an image are a function of its key and of the layer, whatever else is in the batch, and in
    whatever memory layout. Otherwise they follow torch's global generator.
    """

    keys: Tensor | None = None  # int64 (B,), one for each image

    def forward(self, input: Tensor) -> Tensor:
        """(B, …) → the same."""
        if not self.training or self.p == 0:
            return input
        keys = self.keys
        if keys is None:
            keys = torch.randint(-(2**63), 2**63 - 1, input.shape[:1]).to(input.device)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        numbers = sixteen_bits(keys, input[0].numel()).view(input.shape)  # −2¹⁵..2¹⁵−1
        kept = input.new_full((), 2**16 / (2**16 - dropped))
        return input * torch.where(numbers >= dropped - 2**15, kept, torch.zeros_like(kept))


@torch.no_grad()
def sixteen_bits(keys: Tensor, count: int) -> Tensor:
    """Return `count` random numbers of each key, uniform in −2¹⁵..2¹⁵−1: int16 (B, count)."""
    if torch.compiler.is_compiling():
        return sixteen_bits_of_each(keys, count)
    counters = torch.arange(1, -(-count // 4) + 1, device=keys.device) * WEYL
    if keys.device.type != "cpu":
        return mixed(keys[:, None] + counters).view(torch.int16)[:, :count].contiguous()
    words = torch.empty(len(keys), len(counters), dtype=torch.int64)
    some = max(1, CACHED // len(counters))
    for rows, of_rows in zip(words.split(some), keys.split(some), strict=True):
        for piece, counter in zip(rows.split(CACHED, dim=1), counters.split(CACHED), strict=True):
            mixed(torch.add(of_rows[:, None], counter, out=piece))
    return words.view(torch.int16)[:, :count].contiguous()


def sixteen_bits_of_each(keys: Tensor, count: int) -> Tensor:
    """Return `sixteen_bits`, each word computed four times: compiled, it is one kernel.

    The compiler takes arithmetic on `arange` for indices, which do not wrap at 2⁶⁴ and need no cast
    to 16 bits. So only key/WEYL + i is multiplied, and the bits are cut by hand.
    """
    index = torch.arange(count, device=keys.device)
    words = mixed(((keys * INVERSE)[:, None] + (index // 4 + 1)) * WEYL)
    unsigned = words >> 16 * (index % 4) & 0xFFFF
    return ((unsigned ^ 0x8000) - 0x8000).to(torch.int16)


@contextmanager
def dropout_keys(network: nn.Module, keys: Tensor | None) -> Iterator[None]:
    """Let each `Dropout` of a network draw from keys, int64 (B,), one for each image of a batch."""
    layers = [layer for layer in network.modules() if isinstance(layer, Dropout)]
    if keys is None or not layers:
        yield
        return
    numbers = torch.arange(1, len(layers) + 1, device=keys.device)
    of_layers = mixed(mixed(keys.clone()) + numbers[:, None] * WEYL)  # (layers, B)
    try:
        for layer, keys in zip(layers, of_layers, strict=True):
            layer.keys = keys
        yield
    finally:
        for layer in layers:
            layer.keys = None


# ---- attention -----------------------------------------------------------------------------------

FEW_TOKENS = 512


def attend(q: Tensor, k: Tensor, v: Tensor, *, dropout: Dropout | None = None) -> Tensor:
    """Return softmax(q·kᵀ/√d) v, with dropout on the weights. q, k, v: (B,heads,N,d) → the same.

    Fused attention never stores the N×N weights. Two cases use matrix products instead: dropout,
    because fused dropout cannot draw per image, and few tokens in half precision on a CPU, where
    products are twice as fast (docs/performance.md) and round q·kᵀ to half precision.
    """
    few_in_half = q.element_size() == 2 and k.shape[2] <= FEW_TOKENS
    drops = dropout is not None and dropout.training and dropout.p > 0
    if drops or (q.device.type == "cpu" and few_in_half):
        weights = (q * q.shape[3] ** -0.5 @ k.mT).softmax(dim=3)
        weights = weights if dropout is None else dropout(weights)
        return (v.mT @ weights.mT).mT
    q, k, v = (each if each.stride(3) == 1 else each.contiguous() for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)


# ---- blocks --------------------------------------------------------------------------------------

Norm = Callable[[int], nn.GroupNorm]
"""width → the normalisation of so many channels."""


class ResidualBlock(nn.Module):
    """GN–SiLU–conv3, + Linear(SiLU(time)), GN–SiLU–dropout–conv3, + the input.

    If the widths differ, and with `project` always, the input is added by a 1×1 convolution.

    With `scale_shift` the layer of the time instead scales and shifts the output of the second GN:
    (1 + scale)·GN(h) + shift (Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.1).

    `resize` changes the size of the input, and before the first convolution (there, section 3).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_time: int,
        *,
        norm: Norm,
        dropout: float = 0.0,
        scale_shift: bool = False,
        project: bool = False,
        resize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.norm1 = norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(c_time, c_out * (1 + scale_shift))
        self.norm2 = norm(c_out)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if project or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B,c_in,H,W); time: (B,c_time), already through SiLU → (B,c_out,H,W), or resized."""
        h = F.silu(self.norm1(x))
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        h = self.conv1(h)
        embedding = self.time(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedding.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift  # a CPU does not vectorise addcmul here
        else:
            h = self.norm2(h + embedding)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.shortcut(x) + h


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

    On a CPU a 1×1 convolution avoids moving them; elsewhere channels last keeps them together.
    """
    if x.device.type == "cpu":
        return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
    return layer(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])
