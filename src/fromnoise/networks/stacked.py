"""A U-Net of equal layers: residual block, optional attention, residual block, another size."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.base import Patch, UNet, check_options
from fromnoise.networks.layers import Dropout, attend

Flags = Sequence[bool]


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

    interleaved = True  # the rows of q, k and v in `qkv`

    def __init__(
        self, channels: int, *, norm: nn.GroupNorm | None, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        h = x if self.norm is None else self.norm(x)
        qkv = self.qkv(h.flatten(2).transpose(1, 2)).unflatten(2, (-1, self.heads, 3))
        q, k, v = qkv.permute(4, 0, 3, 1, 2).contiguous()  # (B,heads,HW,C/heads)
        h = attend(q, k, v, dropout=self.dropout)
        h = self.out(h.permute(0, 2, 3, 1).flatten(2))  # (B,HW,C)
        h = h.transpose(1, 2).reshape(x.shape)
        return h if self.norm is None else x + h


class Stacked(UNet):
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

    Every width must be a multiple of `groups` and of 2, and with attention of `heads`. `patch`: see
    `UNet`.
    """

    regions = (Residual, Attention)

    def __init__(
        self,
        *,
        image_channels: int = 3,
        cond_dim: int = 0,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        patch: Patch = 1,
        channels: Sequence[int] = (64, 128, 256, 512, 512, 384),
        attention: Flags = (False, True, False, False, False, True),
        upscale: Flags = (False, False, False, True, True, True),
        groups: int = 32,
        dropout: float = 0.1,
        heads: int = 8,
        time: Literal["raw", "projected"] = "raw",
        attention_form: Literal["plain", "residual"] = "plain",
    ) -> None:
        super().__init__(image_channels, cond_dim, learned_variance, self_conditioning, patch)
        check_options(dropout=dropout, groups=groups, heads=heads)
        _check_layers(channels, attention, upscale, groups, heads)
        out_width = _widths(channels[0], upscale)[-1]
        self.size_multiple = patch * 2 ** max(0, *accumulate(-1 if up else 1 for up in upscale))
        c_time = max(channels) if time == "projected" else 0

        def residual(c: int) -> Residual:
            return Residual(c, c_time, groups=groups, dropout=dropout)

        def attending(c: int) -> Attention:
            if attention_form == "plain":
                return Attention(c, norm=None, heads=heads, dropout=dropout)
            return Attention(c, norm=nn.GroupNorm(groups, c), heads=heads, dropout=0.0)

        self.embed(max(channels), c_time, "interleaved")
        self.stem = nn.Conv2d(self.c_in, channels[0], 3, padding=1)
        self.layers = nn.ModuleList()
        for c, attends, up in zip(channels, attention, upscale, strict=True):
            layer = nn.ModuleDict({"residual1": residual(c), "residual2": residual(c)})
            if attends:
                layer["attention"] = attending(c)
            if up:  # twice the size and half the width
                layer["resample"] = nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1)
            else:
                layer["resample"] = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
            self.layers.append(layer)
        self.out1 = nn.Conv2d(out_width, out_width // 2, 3, padding=1)
        self.out2 = nn.Conv2d(out_width // 2, self.c_out, 1)

    def _denoise(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for i, layer in enumerate(cast(Iterable[nn.ModuleDict], self.layers)):
            x = layer["residual1"](x, time)
            if "attention" in layer:
                x = layer["attention"](x)
            before = layer["residual2"](x, time)
            x = layer["resample"](before)
            if i < len(self.layers) // 2:
                skips.append(before)
            else:
                x = torch.cat([x, skips.pop()], dim=1)
        return self.out2(F.relu(self.out1(x)))


def _widths(first: int, upscale: Flags) -> list[int]:
    """Return the input width of each layer, and last the width of the output."""
    widths = [first]
    for i, up in enumerate(upscale):
        width = widths[i] // 2 if up else 2 * widths[i]
        skip = widths[len(upscale) - 1 - i] if i >= len(upscale) // 2 else 0
        widths.append(width + skip)
    return widths


def _check_layers(
    channels: Sequence[int], attention: Flags, upscale: Flags, groups: int, heads: int
) -> None:
    if len(channels) < 2 or len(channels) % 2:
        raise ValueError(f"channels is {list(channels)}. Give an even number of widths.")
    for name, flags in (("attention", attention), ("upscale", upscale)):
        if len(flags) != len(channels):
            raise ValueError(
                f"{name} is {list(flags)}. Give true or false for each of the {len(channels)} "
                "channels."
            )
    if any(up == mirrored for up, mirrored in zip(upscale, reversed(upscale), strict=True)):
        raise ValueError(
            f"upscale is {list(upscale)}. Let the second half undo the first, as in "
            "[false, false, true, true]."
        )
    fitting = _widths(channels[0], upscale)[:-1]
    if list(channels) != fitting:
        raise ValueError(
            f"channels is {list(channels)}, but each width follows from those before it and from "
            f"upscale. Use {fitting}."
        )
    if any(c < 1 or c % 2 or c % groups for c in channels):
        raise ValueError(
            f"channels is {list(channels)}. Use multiples of 2 and of groups = {groups}."
        )
    attending = [c for c, attends in zip(channels, attention, strict=True) if attends]
    if any(c % heads for c in attending):
        raise ValueError(
            f"the widths with attention are {attending}. Use multiples of heads = {heads}."
        )
