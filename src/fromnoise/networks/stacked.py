"""A U-Net of equal layers: residual block, optional attention, residual block, another size."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.base import Network
from fromnoise.networks.checks import check_options, check_size
from fromnoise.networks.layers import Dropout, add_cond, attend, sinusoid


class Residual(nn.Module):
    """x + time, then GN–ReLU–conv3–dropout–GN–ReLU–conv3, + x with its time; the width stays.

    The time enters through a layer of the block, or with c_time = 0 as its first C numbers.
    """

    def __init__(self, channels: int, c_time: int, *, groups: int, dropout: float) -> None:
        super().__init__()
        self.time = nn.Linear(c_time, channels) if c_time else None
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = Dropout(dropout)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B,C,H,W); time: (B,c_time), already through SiLU, or (B,≥C) → (B,C,H,W)."""
        time = time[:, : x.shape[1]] if self.time is None else self.time(time)
        x = x + time[:, :, None, None].to(x.dtype)
        h = self.dropout(self.conv1(F.relu(self.norm1(x))))
        return x + self.conv2(F.relu(self.norm2(h)))


class Attention(nn.Module):
    """softmax(q·k/√(C/heads)) v over all pixels for each of `heads` parts, without the input.

    With a norm, x + the same of norm(x). The parts interleave: the rows of `qkv` run over the
    channels of a part, then the parts, and fastest over q, k and v; the columns of `out` over the
    channels, then the parts. `dropout` acts on the attention weights, in training only.
    """

    def __init__(
        self, channels: int, *, norm: nn.GroupNorm | None, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        h = x if self.norm is None else self.norm(x)
        qkv = self.qkv(h.flatten(2).transpose(1, 2)).unflatten(2, (-1, self.heads, 3))
        q, k, v = qkv.permute(4, 0, 3, 1, 2).contiguous()  # (B,heads,HW,C/heads)
        p = self.dropout if self.training else 0.0
        h = attend(q, k, v, dropout=p)
        h = self.out(h.permute(0, 2, 3, 1).flatten(2))  # (B,HW,C)
        h = h.transpose(1, 2).reshape(x.shape)
        return h if self.norm is None else x + h


class Layer(nn.Module):
    """Residual block, optional attention, residual block, and then another size."""

    def __init__(
        self, residuals: list[Residual], attention: Attention | None, resample: nn.Module
    ) -> None:
        super().__init__()
        self.residual1, self.residual2 = residuals
        self.attention = attention
        self.resample = resample

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """(B,C,H,W) → the resampled result, and the (B,C,H,W) before resampling."""
        x = self.residual1(x, time)
        if self.attention is not None:
            x = self.attention(x)
        x = self.residual2(x, time)
        return self.resample(x), x


class Stacked(Network):
    """ε_θ(x_t, t, cond): 35,178,689 parameters with the defaults and one image channel.

    Layer i has width channels[i], then halves the size and doubles the width, or the reverse if
    upscale[i]. Each layer of the second half concatenates the output of its mirror image in the
    first, before resampling. So each width follows from those before it: 64, 128, 256, 512,
    256 + 256, 256 + 128, and 192 + 64 at the end.

    `time`: `raw`, as published, adds the sinusoid itself, its first C numbers, which in a layer of
    width 64 have periods below 20 steps and no slower ones; `projected` learns an embedding, by two
    layers and one more in each residual block. `attention_form`: `plain`, as published, replaces
    its input by attention, with dropout on the weights; `residual` normalises the input, adds the
    result to it and, as in the paper, leaves dropout to the residual blocks, so that the attention
    stays fused in training too.

    The condition, K numbers in {−1, 0, +1}, is added to the time through a layer without bias, so
    that zeros are the unconditional case. Every width must be a multiple of `groups` and of 2, and
    with attention of `heads`. The image's sides must be multiples of `size_multiple`; any such size
    works, square or not.
    """

    regions = (Residual, Attention)

    def __init__(
        self,
        *,
        image_channels: int = 3,
        cond_dim: int = 0,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        channels: Sequence[int] = (64, 128, 256, 512, 512, 384),
        attention: Sequence[bool] = (False, True, False, False, False, True),
        upscale: Sequence[bool] = (False, False, False, True, True, True),
        groups: int = 32,
        dropout: float = 0.1,
        heads: int = 8,
        time: Literal["raw", "projected"] = "raw",
        attention_form: Literal["plain", "residual"] = "plain",
    ) -> None:
        super().__init__()
        check_options(dropout=dropout, groups=groups, heads=heads)
        _check_layers(channels, attention, upscale, groups, heads)
        out_width = _widths(channels[0], upscale)[-1]
        self.image_channels, self.cond_dim = image_channels, cond_dim
        self.learned_variance = learned_variance
        self.self_conditioning = self_conditioning
        self.size_multiple = 2 ** max(0, *accumulate(-1 if up else 1 for up in upscale))
        self.time_dim = max(channels)
        c_time = self.time_dim if time == "projected" else 0

        def residual(c: int) -> Residual:
            return Residual(c, c_time, groups=groups, dropout=dropout)

        def attending(c: int) -> Attention:
            if attention_form == "plain":
                return Attention(c, norm=None, heads=heads, dropout=dropout)
            return Attention(c, norm=nn.GroupNorm(groups, c), heads=heads, dropout=0.0)

        self.time1 = nn.Linear(c_time, c_time) if c_time else None
        self.time2 = nn.Linear(c_time, c_time) if c_time else None
        self.cond = nn.Linear(cond_dim, self.time_dim, bias=False) if cond_dim else None

        self.stem = nn.Conv2d(image_channels * (1 + self_conditioning), channels[0], 3, padding=1)
        self.layers = nn.ModuleList()
        for c, attends, up in zip(channels, attention, upscale, strict=True):
            residuals = [residual(c), residual(c)]
            among = attending(c) if attends else None
            if up:  # twice the size and half the width
                resample = nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1)
            else:
                resample = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
            self.layers.append(Layer(residuals, among, resample))
        self.out1 = nn.Conv2d(out_width, out_width // 2, 3, padding=1)
        self.out2 = nn.Conv2d(out_width // 2, image_channels * (1 + learned_variance), 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x: (B,C,H,W); t ∈ {0..T−1}: (B,); cond: (B,K) or None → (B,C or 2C,H,W)."""
        check_size(x.shape[2], x.shape[3], self.size_multiple)
        time = sinusoid(t, self.time_dim, "interleaved").to(self.stem.weight.dtype)
        if self.time1 is not None and self.time2 is not None:
            time = self.time2(F.silu(self.time1(time)))
        time = add_cond(time, self.cond, cond)
        if self.time1 is not None:
            time = F.silu(time)

        x = self.stem(x)
        skips = []
        for i, layer in enumerate(cast(Iterable[Layer], self.layers)):
            x, before = layer(x, time)
            if i < len(self.layers) // 2:
                skips.append(before)
            else:
                x = torch.cat([x, skips.pop()], dim=1)
        return self.out2(F.relu(self.out1(x)))


def _widths(first: int, upscale: Sequence[bool]) -> list[int]:
    """Return the input width of each layer, and last the width of the output."""
    widths = [first]
    for i, up in enumerate(upscale):
        width = widths[i] // 2 if up else 2 * widths[i]
        skip = widths[len(upscale) - 1 - i] if i >= len(upscale) // 2 else 0
        widths.append(width + skip)
    return widths


def _check_layers(
    channels: Sequence[int],
    attention: Sequence[bool],
    upscale: Sequence[bool],
    groups: int,
    heads: int,
) -> None:
    if len(channels) < 2 or len(channels) % 2:
        raise ValueError(f"channels must be an even number of widths, not {list(channels)}")
    for name, flags in (("attention", attention), ("upscale", upscale)):
        if len(flags) != len(channels):
            raise ValueError(
                f"{name} must be true or false for each of the {len(channels)} channels, "
                f"not {list(flags)}"
            )
    if any(up == mirrored for up, mirrored in zip(upscale, reversed(upscale), strict=True)):
        raise ValueError(
            "the second half of upscale must undo the first, as in [false, false, true, true], "
            f"not {list(upscale)}"
        )
    fitting = _widths(channels[0], upscale)[:-1]
    if list(channels) != fitting:
        raise ValueError(
            f"channels must be {fitting} with this first width and this upscale, since each width "
            f"follows from those before it, not {list(channels)}"
        )
    if any(c < 1 or c % 2 or c % groups for c in channels):
        raise ValueError(
            f"every width of channels must be a multiple of 2 and of groups = {groups}, "
            f"not {list(channels)}"
        )
    attending = [c for c, attends in zip(channels, attention, strict=True) if attends]
    if any(c % heads for c in attending):
        raise ValueError(
            f"the widths with attention must be multiples of heads = {heads}, not {attending}"
        )
