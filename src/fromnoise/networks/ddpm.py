"""The U-Net of Ho, Jain and Abbeel 2020 (arXiv:2006.11239), appendix B."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence, Set
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.base import Patch, UNet, check_even, check_levels, check_options
from fromnoise.networks.layers import Attention, ResidualBlock


class Level(nn.Module):
    """The blocks at one resolution: after each residual block, attention if the level has it."""

    def __init__(self, blocks: list[ResidualBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample: nn.Module | None = None

    def block(self, i: int, x: Tensor, time: Tensor) -> Tensor:
        """Apply residual block i of this level, and its attention if the level has it."""
        x = self.blocks[i](x, time)
        return self.attentions[i](x) if self.attentions else x

    def resized(self, x: Tensor, time: Tensor) -> Tensor:
        """Return x at the size of the next level."""
        if isinstance(self.resample, ResidualBlock):
            return self.resample(x, time)
        assert self.resample is not None
        return self.resample(x)


class DDPM(UNet):
    """ε_θ(x_t, t, cond): 35,746,307 parameters with the defaults, the paper's CIFAR-10 network.

    Level i has width channels·multipliers[i] and 1/2^i of the image size, or 1/(patch·2^i) with
    patches of `patch`×`patch` pixels (see `UNet`). `num_res_blocks` is the number of residual
    blocks of a level in the encoder, one number for all levels or a list with one for each; the
    decoder has one block more. `attention_levels` counts from 0, so (1,) is attention at 16×16 on
    32×32 images. Attention has one head, or with `head_channels` width/head_channels heads of this
    width, one number or a list with one for each level. With `scale_shift` the embedding of time
    and condition scales and shifts the features and is not added. `groups` divides all widths.

    A level is half as large as the one before by a convolution of stride 2, padded right and below
    or on all sides (`downsample` asymmetric or symmetric), and twice as large by nearest neighbour
    and a convolution; or, with `downsample: residual`, both by residual blocks that average 2×2
    pixels, or repeat them (Dhariwal and Nichol 2021, arXiv:2105.05233, section 3).
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
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int | Sequence[int] = 2,
        attention_levels: Sequence[int] = (1,),
        head_channels: int | Sequence[int] | None = None,
        dropout: float = 0.1,
        groups: int = 32,
        embedding: Literal["halves", "interleaved"] = "halves",
        downsample: Literal["asymmetric", "symmetric", "residual"] = "asymmetric",
        norm_eps: float = 1e-6,
        scale_shift: bool = False,
    ) -> None:
        super().__init__(image_channels, cond_dim, learned_variance, self_conditioning, patch)
        check_options(multipliers=multipliers, dropout=dropout)
        depths = _depths(num_res_blocks, len(multipliers))
        check_even("channels", channels)
        check_levels("attention_levels", attention_levels, len(multipliers))
        if groups < 1 or channels % groups:
            raise ValueError(
                f"channels must be a multiple of groups, but {channels} is not one of {groups}. "
                f"Set for example groups = {math.gcd(channels, groups)}."
            )
        self.size_multiple = patch * 2 ** (len(multipliers) - 1)
        c_time = 4 * channels
        widths = [channels * m for m in multipliers]
        attended = {*attention_levels, len(widths) - 1}
        self.head_channels = _head_channels(head_channels, widths, attended)

        def norm(width: int) -> nn.GroupNorm:
            return nn.GroupNorm(groups, width, eps=norm_eps)

        def residual(c_in: int, c_out: int, resize: nn.Module | None = None) -> ResidualBlock:
            more = {"dropout": dropout, "scale_shift": scale_shift, "resize": resize}
            return ResidualBlock(c_in, c_out, c_time, norm=norm, **more)

        def attention(i: int) -> Attention:
            width, head = widths[i], self.head_channels[i]
            return Attention(norm(width), heads=width // (head or width))

        def level(i: int, c_ins: list[int]) -> Level:
            attentions = [attention(i) for _ in c_ins if i in attention_levels]
            return Level([residual(c, widths[i]) for c in c_ins], attentions)

        self.embed(channels, c_time, embedding)
        self.stem = nn.Conv2d(self.c_in, channels, 3, padding=1)
        skips, c = [channels], channels  # the width of every skip connection
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            self.down.append(level(i, [c] + [width] * (depths[i] - 1)))
            skips += [width] * depths[i]
            c = width
            if i < len(widths) - 1 and downsample == "residual":
                self.down[-1].resample = residual(c, c, nn.AvgPool2d(2))
                skips.append(c)
            elif i < len(widths) - 1:
                asymmetric = downsample == "asymmetric"  # right and below only, as in the paper
                pad = nn.ZeroPad2d((0, 1, 0, 1)) if asymmetric else nn.Identity()
                conv = nn.Conv2d(c, c, 3, stride=2, padding=0 if asymmetric else 1)
                self.down[-1].resample = nn.Sequential(OrderedDict(pad=pad, conv=conv))
                skips.append(c)

        self.middle1, self.middle2 = residual(c, c), residual(c, c)
        self.middle_attention = attention(len(widths) - 1)

        self.up = nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            c_ins = [skips.pop() + (c if j == 0 else width) for j in range(depths[i] + 1)]
            self.up.append(level(i, c_ins))
            c = width
            twice = nn.Upsample(scale_factor=2.0)  # by nearest neighbour
            if i > 0 and downsample == "residual":
                self.up[-1].resample = residual(c, c, twice)
            elif i > 0:
                conv = nn.Conv2d(c, c, 3, padding=1)
                self.up[-1].resample = nn.Sequential(OrderedDict(twice=twice, conv=conv))

        self.norm = norm(c)
        self.out = nn.Conv2d(c, self.c_out, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():  # residual branches, and ε itself, start at zero
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attention):
                for part in module.qkv.weight.chunk(3):  # as three separate layers
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(module.out.weight)
        nn.init.zeros_(self.out.weight)

    def _denoise(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.stem(x)
        skips = [x]
        for level in cast(Iterable[Level], self.down):
            for i in range(len(level.blocks)):
                x = level.block(i, x, time)
                skips.append(x)
            if level.resample is not None:
                x = level.resized(x, time)
                skips.append(x)

        x = self.middle2(self.middle_attention(self.middle1(x, time)), time)

        for level in cast(Iterable[Level], self.up):
            for i in range(len(level.blocks)):
                x = level.block(i, torch.cat([x, skips.pop()], dim=1), time)
            if level.resample is not None:
                x = level.resized(x, time)
        return self.out(F.silu(self.norm(x)))


def _depths(num_res_blocks: int | Sequence[int], levels: int) -> list[int]:
    """Return the number of residual blocks of each level. Raises ValueError if it does not fit."""
    if not isinstance(num_res_blocks, Sequence):
        check_options(num_res_blocks=num_res_blocks)
        return [num_res_blocks] * levels
    depths = list(num_res_blocks)
    if len(depths) != levels or min(depths) < 1:
        raise ValueError(
            f"num_res_blocks is {depths}. Give a number ≥ 1, or {levels} of them, one for each of "
            "the multipliers."
        )
    return depths


def _head_channels(
    head_channels: int | Sequence[int] | None, widths: Sequence[int], attended: Set[int]
) -> list[int | None]:
    """Return the width of a head at each level. Raises ValueError if it does not divide its own."""
    if isinstance(head_channels, Sequence):
        heads: list[int | None] = list(head_channels)
        if len(heads) != len(widths):
            raise ValueError(
                f"head_channels is {heads}. Give a number, or {len(widths)} of them, one for each "
                "of the multipliers."
            )
    else:
        heads = [head_channels] * len(widths)
    for i in sorted(attended):
        head, width = heads[i], widths[i]
        if head is not None and (head < 1 or width % head):
            fits = math.gcd(*(widths[j] for j in attended))
            raise ValueError(
                f"head_channels is {head}, but the width {width} with attention is no multiple of "
                f"it. Set for example head_channels = {fits}."
            )
    return heads
