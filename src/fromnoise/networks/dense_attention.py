"""A U-Net with attention after every residual layer, at every resolution."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.base import Patch, UNet, check_even, check_levels
from fromnoise.networks.layers import Attention, ResidualBlock


class Block(nn.Module):
    """Residual layers at one resolution, with attention between or after them."""

    def __init__(self, residuals: list[ResidualBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(residuals)
        self.attentions = nn.ModuleList(attentions)
        self.resample: nn.Module | None = None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B,c_in,H,W) → (B,c_out,H,W), before or after `resample`."""
        for i, residual in enumerate(self.residuals):
            x = residual(x, time)
            if i < len(self.attentions):
                x = self.attentions[i](x)
        return x


class DenseAttention(UNet):
    """ε_θ(x_t, t, cond): 10,188,947 parameters with the defaults.

    Block i of the encoder leads from channels[i] to channels[i+1], and halves the image if
    downsample[i]. The middle has the widths `mid_channels`, from the last of `channels` to the last
    but one. The decoder mirrors the encoder and ends at `out_width`. `num_layers` are the residual
    layers of a block in the encoder, in the middle (there, one more) and in the decoder.
    `attention_levels` are the blocks with attention in encoder and decoder, counted from 0 at full
    resolution; None is all of them. The middle always has attention. Every width must be a multiple
    of `groups` and of `heads`. `patch`: see `UNet`.
    """

    regions = (ResidualBlock, Attention)

    def __init__(
        self,
        *,
        image_channels: int = 3,
        cond_dim: int = 0,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        patch: Patch = 1,
        channels: Sequence[int] = (32, 64, 128, 256),
        mid_channels: Sequence[int] = (256, 256, 128),
        downsample: Sequence[bool] = (True, True, False),
        time_dim: int = 128,
        num_layers: Sequence[int] = (2, 2, 2),
        heads: int = 4,
        attention_levels: Sequence[int] | None = None,
        out_width: int = 16,
        groups: int = 8,
    ) -> None:
        super().__init__(image_channels, cond_dim, learned_variance, self_conditioning, patch)
        if attention_levels is None:
            attention_levels = range(len(channels) - 1)
        _check_widths(channels, mid_channels, out_width, heads, groups)
        if len(downsample) != len(channels) - 1:
            raise ValueError(
                f"downsample is {list(downsample)}. Give true or false for each of the "
                f"{len(channels) - 1} blocks between the channels."
            )
        if len(num_layers) != 3 or min(num_layers) < 1:
            raise ValueError(
                f"num_layers is {list(num_layers)}. Give three numbers ≥ 1 (down, middle, up)."
            )
        check_levels("attention_levels", attention_levels, len(channels) - 1)
        check_even("time_dim", time_dim, least=2)
        self.size_multiple = patch * 2 ** sum(downsample)
        num_down, num_mid, num_up = num_layers

        def norm(width: int) -> nn.GroupNorm:
            return nn.GroupNorm(groups, width)

        def block(c_in: int, c_out: int, num_residuals: int, num_attentions: int) -> Block:
            c_ins = [c_in] + [c_out] * (num_residuals - 1)
            return Block(
                [ResidualBlock(c, c_out, time_dim, norm=norm, project=True) for c in c_ins],
                [Attention(norm(c_out), heads=heads) for _ in range(num_attentions)],
            )

        self.embed(time_dim, time_dim, "periods")
        self.stem = nn.Conv2d(self.c_in, channels[0], 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, (c_in, c_out) in enumerate(pairwise(channels)):
            self.down.append(block(c_in, c_out, num_down, num_down * (i in attention_levels)))
            if downsample[i]:
                self.down[-1].resample = nn.Conv2d(c_out, c_out, 4, stride=2, padding=1)
        for c_in, c_out in pairwise(mid_channels):
            self.middle.append(block(c_in, c_out, num_mid + 1, num_mid))
        for i in reversed(range(len(channels) - 1)):
            c, c_out = channels[i], channels[i - 1] if i else out_width
            self.up.append(block(2 * c, c_out, num_up, num_up * (i in attention_levels)))
            if downsample[i]:
                self.up[-1].resample = nn.ConvTranspose2d(c, c, 4, stride=2, padding=1)

        self.norm = norm(out_width)
        self.out = nn.Conv2d(out_width, self.c_out, 3, padding=1)

    def _denoise(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []  # the input of each block of the encoder
        for block in cast(Iterable[Block], self.down):
            skips.append(x)
            x = block(x, time)
            if block.resample is not None:
                x = block.resample(x)
        for block in self.middle:
            x = block(x, time)
        for block in cast(Iterable[Block], self.up):
            if block.resample is not None:
                x = block.resample(x)
            x = block(torch.cat([x, skips.pop()], dim=1), time)
        return self.out(F.silu(self.norm(x)))


def _check_widths(
    channels: Sequence[int], mid_channels: Sequence[int], out_width: int, heads: int, groups: int
) -> None:
    if len(channels) < 2 or len(mid_channels) < 2:
        raise ValueError(
            f"channels is {list(channels)} and mid_channels {list(mid_channels)}. Give two or more "
            "widths each."
        )
    if (mid_channels[0], mid_channels[-1]) != (channels[-1], channels[-2]):
        raise ValueError(
            f"mid_channels is {list(mid_channels)}. Let it start with {channels[-1]} and end with "
            f"{channels[-2]}, the last two of channels."
        )
    widths = [*channels, *mid_channels, out_width]
    for name, number in (("groups", groups), ("heads", heads)):
        unfit = [width for width in widths if number < 1 or width < 1 or width % number]
        if unfit:
            raise ValueError(
                f"every width in channels, mid_channels and out_width must be a multiple of "
                f"{name}, but {unfit[0]} is not one of {number}. "
                f"Set for example {name} = {math.gcd(*widths)}."
            )
