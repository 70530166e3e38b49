"""A U-Net with attention at every level, at all but the innermost linear in the pixels.

The `Unet` of denoising-diffusion-pytorch 2, and its forms of June 2022. RMSNorm: Zhang and Sennrich
2019 (arXiv:1910.07467). Linear attention: Shen et al. 2021 (arXiv:1812.01243).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fromnoise.networks.base import Patch, UNet, check_even, check_levels, check_options
from fromnoise.networks.layers import Dropout, attend

GROUPS = 8  # of GroupNorm
Form = Literal["v2", "june2022", "june2022_skip"]


class _Normalise(torch.autograd.Function):
    """gain · x/max(‖x‖, 1e-12) + shift over the channels, computed in float32.

    Its own backward pass keeps only x; autograd would keep three tensors of that size, one of them
    in float32, and read them twice as often. The result has x's precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor | None) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=precise)
        inverse = length.clamp_(min=1e-12).reciprocal_()  # (B,1,H,W)
        ctx.save_for_backward(x, gain, inverse)
        ctx.shifted = shift is not None
        out = x * inverse
        out = out.mul_(gain) if shift is None else torch.addcmul(shift, out, gain)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, gain, inverse = ctx.saved_tensors
        grad = grads[0].to(inverse.dtype)
        unit = x * inverse
        of_gain = grad * unit
        # with u = x/‖x‖ and g = gain · grad, the gradient of x is (g − u (u·g))/‖x‖
        along = (of_gain * gain).sum(dim=1, keepdim=True)
        of_x = (grad * gain).addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype)
        of_shift = grad.sum(dim=(2, 3), keepdim=True) if ctx.shifted else None
        return of_x, of_gain.sum_to_size(gain.shape), of_shift


class RMSNorm(nn.Module):
    """√C · x/‖x‖ · gain: the channels of every pixel get a root mean square of 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x: (B,C,H,W); scale, shift: (B,C) each → norm(x)·(1 + scale) + shift."""
        gain = (self.gain * len(self.gain) ** 0.5)[None, :, None, None]
        shift = None
        if scale_shift is not None:
            scale, shift = (part[:, :, None, None].to(gain.dtype) for part in scale_shift)
            gain = gain * (1 + scale)
        return cast(Tensor, _Normalise.apply(x, gain, shift))


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 8 groups, scaled and shifted as `RMSNorm` is."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, input: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """input: (B,C,H,W); scale, shift: (B,C) each → norm(input)·(1 + scale) + shift."""
        h = super().forward(input)
        if scale_shift is None:
            return h
        scale, shift = (part[:, :, None, None] for part in scale_shift)
        return h * (1 + scale) + shift


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel, with gain and bias."""

    def forward(self, input: Tensor) -> Tensor:
        """(B,C,H,W) → the same."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


Norm = Callable[[int], nn.Module]
"""channels → their normalisation."""


class ResidualBlock(nn.Module):
    """conv3–norm–scale and shift by the time–SiLU–dropout, conv3–norm–SiLU, + the input.

    With c_time = 0 it has no layer of the time.
    """

    def __init__(
        self, c_in: int, c_out: int, c_time: int, *, dropout: float, norm: Norm = RMSNorm
    ) -> None:
        super().__init__()
        self.time = nn.Linear(c_time, 2 * c_out) if c_time else None
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm1 = norm(c_out)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm2 = norm(c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B,c_in,H,W); time: (B,c_time), already through SiLU → (B,c_out,H,W)."""
        scale_shift = None if self.time is None else self.time(time).chunk(2, dim=1)
        h = self.dropout(F.silu(self.norm1(self.conv1(x), scale_shift)))
        h = F.silu(self.norm2(self.conv2(h)))
        return h + self.shortcut(x)


class Attention(nn.Module):
    """A norm, then several heads of softmax(q·k/√d) v over all pixels, + the input.

    The memories, a few learned keys and values or none, are attended beside those of the pixels.
    """

    def __init__(
        self, channels: int, *, heads: int, head_dim: int, memories: int, norm: Norm = RMSNorm
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = norm(channels)
        memory = torch.randn(2, heads, memories, head_dim) if memories else None
        self.memory = None if memory is None else nn.Parameter(memory)
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        qkv = self.qkv(_tokens(self.norm(x))).unflatten(2, (3, self.heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B,heads,HW,d) each
        if self.memory is not None:
            memory = self.memory.to(k.dtype)[:, None].expand(-1, len(x), -1, -1, -1)
            k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)
        h = attend(q, k, v).transpose(1, 2).flatten(2)
        return x + _image(self.out(h), x)


class LinearAttention(Attention):
    """A norm, then in each head (softmax_pixels(k)ᵀ v)ᵀ softmax_channels(q)/√d, a norm, + input.

    The memories are as in `Attention`. No values are computed: with v = x W_v,
    softmax(k)ᵀ v = (softmax(k)ᵀ x) W_v, so that everything between softmax(q) and the output is one
    matrix for each image.
    """

    def __init__(
        self, channels: int, *, heads: int, head_dim: int, memories: int, norm: Norm = RMSNorm
    ) -> None:
        super().__init__(channels, heads=heads, head_dim=head_dim, memories=memories, norm=norm)
        self.out_norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        heads, d = self.heads, self.head_dim
        w_q, w_k, w_v = self.qkv.weight.chunk(3)  # (heads·d,C) each
        tokens = _tokens(self.norm(x))  # (B,HW,C)

        q = F.linear(tokens, w_q).unflatten(2, (heads, d)).softmax(dim=3).flatten(2)
        k = F.linear(tokens, w_k)  # (B,HW,heads·d)
        if self.memory is not None:
            memory = self.memory[0].transpose(0, 1).flatten(1).to(k.dtype)  # (memories,heads·d)
            k = torch.cat([memory.expand(len(x), -1, -1), k], dim=1)
        k = k.softmax(dim=1)

        of_memories, k = k.split([k.shape[1] - tokens.shape[1], tokens.shape[1]], dim=1)

        context = (k.mT @ tokens).unflatten(1, (heads, d))  # (B,heads,d,C)
        context = context @ w_v.unflatten(0, (heads, d)).mT  # (B,heads,d,d)
        if self.memory is not None:
            of_memories = of_memories.unflatten(2, (heads, d)).permute(0, 2, 3, 1)
            context = context + of_memories @ self.memory[1]
        w_out = self.out.weight.unflatten(1, (heads, d)).permute(1, 2, 0)  # (heads,d,C)
        whole = (context * d**-0.5 @ w_out).flatten(1, 2)  # (B,heads·d,C)

        return x + self.out_norm(_image(torch.baddbmm(self.out.bias, q, whole), x))


def _tokens(x: Tensor) -> Tensor:
    """Reshape (B,C,H,W) → (B,HW,C), without a copy if x is channels last."""
    return x.flatten(2).transpose(1, 2)


def _image(tokens: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,HW,C) → (B,C,H,W), with the sizes of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


def _check_groups(widths: Sequence[int], dim: int, init_dim: int) -> None:
    if odd := [width for width in widths if width % GROUPS]:
        raise ValueError(
            f"dim is {dim} and init_dim {init_dim}, so {odd[0]} is the width of a block. Make all "
            f"widths multiples of {GROUPS} with the forms of June 2022."
        )


class LinearAttentionUNet(UNet):
    """ε_θ(x_t, t, cond): 35,711,491 parameters with the defaults.

    Level i has 1/2^i of the image size, the encoder with width dim·multipliers[i−1] (`init_dim`, by
    default dim, for i = 0) and the decoder with dim·multipliers[i]. Attention has `heads` heads of
    width `head_dim` and `memories` learned keys and values. It is linear, but softmax over all
    pixels in the middle and at the `full_attention_levels` (None: the innermost level).

    `form` is the release that these layers are of:

    - `v2`: RMSNorm; two skips a level, of its width; the stem joined before the last block.
    - `june2022`: the library of 14 June 2022, 32,253,963 parameters with the defaults. GroupNorm
      in the blocks, and a LayerNorm over the channels around attention; no memories, and full
      attention in the middle only, by default; strided and transposed 4×4 convolutions. A level
      ends with width dim·multipliers[i] on the way down, where one skip is kept. `init_dim` is
      dim // 3 · 2. The decoder ends before the joining of level 0, so the skip of full resolution
      is never used. The last block has no layer of the time. Widths are multiples of 8.
    - `june2022_skip`: the next day's, which corrects that: level 0 has a decoder too, to the width
      `init_dim`, by default dim.

    `patch`: see `UNet`.
    """

    regions = (ResidualBlock, Attention, LinearAttention)

    def __init__(
        self,
        *,
        image_channels: int = 3,
        cond_dim: int = 0,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        form: Form = "v2",
        patch: Patch = 1,
        dim: int = 64,
        init_dim: int | None = None,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        heads: int = 4,
        head_dim: int = 32,
        memories: int = 4,
        full_attention_levels: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_channels, cond_dim, learned_variance, self_conditioning, patch)
        last = len(multipliers) - 1
        self.v2 = form == "v2"
        if full_attention_levels is None:
            full_attention_levels = [last] if self.v2 else []
        if init_dim is None:
            init_dim = dim // 3 * 2 if form == "june2022" else dim
        check_options(multipliers=multipliers, dropout=dropout)
        check_options(init_dim=init_dim, heads=heads, head_dim=head_dim, memories=memories)
        check_even("dim", dim)
        check_levels("full_attention_levels", full_attention_levels, last + 1)
        self.size_multiple = patch * 2**last
        c_time = 4 * dim
        widths = [init_dim, *(dim * m for m in multipliers)]
        if not self.v2:
            _check_groups(widths[1:] if form == "june2022" else widths, dim, init_dim)

        def residual(c_in: int, c_out: int, *, timed: bool = True) -> ResidualBlock:
            norm = RMSNorm if self.v2 else GroupNorm
            return ResidualBlock(c_in, c_out, c_time * timed, dropout=dropout, norm=norm)

        def attention(width: int, kind: type[Attention]) -> Attention:
            norm, memory = (RMSNorm, memories) if self.v2 else (LayerNorm, 0)
            return kind(width, heads=heads, head_dim=head_dim, memories=memory, norm=norm)

        def level(c_in: int, c: int, between: int, kind: type[Attention]) -> nn.ModuleDict:
            blocks = {"block1": residual(c_in, c), "block2": residual(between, c)}
            return nn.ModuleDict({**blocks, "attention": attention(c, kind)})

        self.embed(dim, c_time, activation=F.gelu)
        self.stem = nn.Conv2d(self.c_in, init_dim, 7, padding=3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (c_in, c_out) in enumerate(pairwise(widths)):
            kind = Attention if i in full_attention_levels else LinearAttention
            if not self.v2:
                down = level(c_in, c_out, c_out, kind)
                half = nn.Conv2d(c_out, c_out, 4, stride=2, padding=1)
                down["resample"] = half if i < last else nn.Identity()
                self.down.append(down)
                if i > 0 or form == "june2022_skip":
                    up = level(2 * c_out, c_in, c_in, kind)
                    double = nn.ConvTranspose2d(c_in, c_in, 4, stride=2, padding=1)
                    up["resample"] = double if i > 0 else nn.Identity()
                    self.up.insert(0, up)
                continue
            half = nn.Conv2d(c_in, c_out, 2, stride=2)  # space-to-depth and a 1×1 convolution
            down = level(c_in, c_in, c_in, kind)
            down["resample"] = half if i < last else nn.Conv2d(c_in, c_out, 3, padding=1)
            self.down.append(down)
            conv = nn.Conv2d(c_out, c_in, 3, padding=1)
            up = level(c_out + c_in, c_out, c_out + c_in, kind)
            up["resample"] = nn.Sequential(nn.Upsample(scale_factor=2.0), conv) if i > 0 else conv
            self.up.insert(0, up)
        c = widths[-1]
        self.middle1, self.middle2 = residual(c, c), residual(c, c)
        self.middle_attention = attention(c, Attention)
        end = widths[1] if form == "june2022" else init_dim
        self.last = residual(2 * end, end) if self.v2 else residual(end, end, timed=False)
        self.out = nn.Conv2d(end, self.c_out, 1)

    def _denoise(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.stem(x)
        stem, skips = x, []
        for level in cast(Iterable[nn.ModuleDict], self.down):
            x = level["block1"](x, time)
            if self.v2:
                skips.append(x)
            x = level["attention"](level["block2"](x, time))
            skips.append(x)
            x = level["resample"](x)

        x = self.middle2(self.middle_attention(self.middle1(x, time)), time)

        for level in cast(Iterable[nn.ModuleDict], self.up):
            x = level["block1"](torch.cat([x, skips.pop()], dim=1), time)
            if self.v2:
                x = torch.cat([x, skips.pop()], dim=1)
            x = level["resample"](level["attention"](level["block2"](x, time)))
        if self.v2:
            x = torch.cat([x, stem], dim=1)
        return self.out(self.last(x, time))
