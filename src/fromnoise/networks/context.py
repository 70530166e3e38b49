"""A U-Net with a pooled middle, which multiplies its activations by the condition.

The `ContextUnet` of TeaPearce/Conditional_Diffusion_MNIST, widened to 64×64 and several labels.
"""

import math
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.base import Patch, UNet, check_options
from fromnoise.networks.layers import sinusoid

Norm = Literal["batch", "group"]
GROUPS = 8


class ConvBlock(nn.Module):
    """conv3–norm–GELU twice; with `residual`, then plus the input, divided by 1.414.

    If the widths differ, the output of the first half is added instead of the input.
    """

    def __init__(self, c_in: int, c_out: int, *, norm: Norm, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm1 = _norm(norm, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm2 = _norm(norm, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B,c_in,H,W) → (B,c_out,H,W)."""
        first = F.gelu(self.norm1(self.conv1(x)))
        second = F.gelu(self.norm2(self.conv2(first)))
        if not self.residual:
            return second
        return ((x if x.shape[1] == second.shape[1] else first) + second) / 1.414


class Embedding(nn.Module):
    """Linear–GELU–Linear: an embedding of the time or the condition for one of the two ups."""

    def __init__(self, c_in: int, c_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear1 = nn.Linear(c_in, c_out, bias=bias)
        self.linear2 = nn.Linear(c_out, c_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B,c_in) → (B,c_out,1,1), in x's precision even if that of the weights is lower."""
        hidden = F.gelu(_in_precision_of(x, self.linear1))
        return _in_precision_of(hidden, self.linear2)[:, :, None, None]


def _up(c_in: int, c_out: int, *, norm: Norm) -> nn.Module:
    """Return a transposed conv2, which doubles the size, and two convolution blocks."""
    conv = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
    block1, block2 = ConvBlock(c_out, c_out, norm=norm), ConvBlock(c_out, c_out, norm=norm)
    return nn.Sequential(OrderedDict(conv=conv, block1=block1, block2=block2))


class ContextUNet(UNet):
    """ε_θ(x_t, t, cond): 7,578,627 parameters with the defaults and 24 labels.

    Two levels of widths F = `features` and 2F, then an average over windows of `pool` × `pool`,
    undone by a transposed convolution of `expand` × `expand`. Before each of the two ups the
    activation becomes activation · c + e, c from the condition and e from the time. Defaults are
    the published values. Each of these corrects a fault of theirs:

    - `pool` = `expand`: with 7 and 8, the middle never sees the remaining rows and columns, 23 % of
      a 64×64 image (the skips do);
    - `norm: group`: batch statistics make an image depend on its neighbours in the batch, and the
      running averages do not belong to the EMA of the weights;
    - `embedding: sinusoid`: the scalar t/T changes by 1/T a step, and a smooth function of it
      hardly differs between neighbouring steps;
    - `condition: signed`: −1 has an effect as +1 has, and without biases activation · (1 + c) + e
      keeps the activation for zeros (the published layers have biases, through which zeros pass).

    t/T is (t+1)/`T` of the t ∈ {0..T−1} that the network receives, with T of the diffusion. Both
    sides of the image must be multiples of `size_multiple` = 4·`expand`·`patch`, and short enough
    for `expand` to undo `pool`: at most 192·`patch` for 7 and 8, any for equal ones. 8 divides
    `features`. `patch`: see `UNet`. The last `augment_dim` columns of the condition keep their sign
    in either form.
    """

    regions = (ConvBlock,)

    def __init__(
        self,
        *,
        image_channels: int = 3,
        cond_dim: int = 0,
        augment_dim: int = 0,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        patch: Patch = 1,
        T: int = 400,
        features: int = 128,
        pool: int = 7,
        expand: int = 8,
        norm: Norm = "batch",
        embedding: Literal["scalar", "sinusoid"] = "scalar",
        condition: Literal["multi-hot", "signed"] = "multi-hot",
    ) -> None:
        super().__init__(image_channels, cond_dim, learned_variance, self_conditioning, patch)
        check_options(T=T)
        if features < 1 or features % GROUPS:
            raise ValueError(f"features is {features}. Use a multiple of {GROUPS}.")
        if not 1 <= pool <= expand < 2 * pool:
            raise ValueError(
                f"pool is {pool} and expand {expand}. Make them equal, or expand larger and less "
                "than twice pool, for example 7 and 8, or 8 and 8, which restore the image size."
            )
        self.T, self.features, self.pool, self.expand = T, features, pool, expand
        self.augment_dim = augment_dim
        self.embedding, self.signed = embedding, condition == "signed"
        self.size_multiple = 4 * expand * patch
        if expand > pool:  # times the most windows side by side, the largest m = ⌊m·expand / pool⌋
            self.largest_size = (math.ceil(pool / (expand - pool)) - 1) * self.size_multiple
        c, c_time = features, 1 if embedding == "scalar" else features
        self.time1, self.time2 = Embedding(c_time, 2 * c), Embedding(c_time, c)
        self.cond1, self.cond2 = (
            Embedding(cond_dim, width, bias=not self.signed) if cond_dim else None
            for width in (2 * c, c)
        )

        self.stem = ConvBlock(self.c_in, c, norm=norm, residual=True)
        self.down1 = ConvBlock(c, c, norm=norm)
        self.down2 = ConvBlock(c, 2 * c, norm=norm)
        self.middle = nn.ConvTranspose2d(2 * c, 2 * c, expand, stride=expand)
        self.middle_norm = nn.GroupNorm(GROUPS, 2 * c)
        self.up1 = _up(4 * c, c, norm=norm)
        self.up2 = _up(2 * c, c, norm=norm)
        self.out1 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.out_norm = nn.GroupNorm(GROUPS, c)
        self.out2 = nn.Conv2d(c, self.c_out, 3, padding=1)

    def _predict(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        with _full_precision(x.device.type):  # bf16 would merge neighbouring t/T
            time1, time2 = self.time1(self._time(t)), self.time2(self._time(t))

        stem = self.stem(x)
        down1 = F.max_pool2d(self.down1(stem), 2)
        down2 = F.max_pool2d(self.down2(down1), 2)
        pooled = F.gelu(F.avg_pool2d(down2, self.pool))

        x = F.relu(self.middle_norm(self.middle(pooled)))
        x = self._conditioned(x, cond, self.cond1) + time1.to(x.dtype)
        x = self.up1(torch.cat([x, down2], dim=1))
        x = self._conditioned(x, cond, self.cond2) + time2.to(x.dtype)
        x = self.up2(torch.cat([x, down1], dim=1))
        return self.out2(F.relu(self.out_norm(self.out1(torch.cat([x, stem], dim=1)))))

    def _time(self, t: Tensor) -> Tensor:
        dtype = torch.promote_types(self.time1.linear1.weight.dtype, torch.float32)
        if self.embedding == "sinusoid":
            return sinusoid(t, self.features).to(dtype)
        return (t.to(dtype)[:, None] + 1) / self.T

    def _conditioned(self, x: Tensor, cond: Tensor | None, embed: Embedding | None) -> Tensor:
        """Multiply x by the embedding of the condition."""
        if embed is None or (self.signed and cond is None):
            return x
        if cond is None:
            cond = x.new_zeros(len(x), self.cond_dim)
        cond = cond.to(embed.linear1.weight.dtype)
        if self.signed:
            return x * (1 + embed(cond))
        labels, augment = cond.split([self.cond_dim - self.augment_dim, self.augment_dim], dim=1)
        return x * embed(torch.cat([labels.clamp(min=0), augment], dim=1))


def _in_precision_of(x: Tensor, layer: nn.Linear) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Disable autocast; the device `meta` has none."""
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known else nullcontext()


def _norm(norm: Norm, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(GROUPS, width)
