"""The network `ddpm` once more, by its equations."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.networks.layers import sinusoid


def patches(x: Tensor, p: int) -> Tensor:
    """(B,C,H,W) → (B,C·p²,H/p,W/p): every p-th row and column from (i, j) on is a channel."""
    return torch.stack(
        [x[:, c, i::p, j::p] for c in range(x.shape[1]) for i in range(p) for j in range(p)], dim=1
    )


def pixels(h: Tensor, p: int) -> Tensor:
    """(B,C·p²,H/p,W/p) → (B,C,H,W), the reverse."""
    x = h.new_zeros(len(h), h.shape[1] // p**2, p * h.shape[2], p * h.shape[3])
    for i in range(p):
        for j in range(p):
            x[:, :, i::p, j::p] = h[:, i * p + j :: p**2]
    return x


def definition(
    p: dict[str, Tensor],
    x: Tensor,
    t: Tensor,
    cond: Tensor | None = None,
    *,
    patch: int = 1,
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
    **_: object,  # what the weights tell
) -> Tensor:
    """The output for the weights p, in the precision of x, with `dropout` acting."""
    num_levels = len(multipliers)
    depths = [num_res_blocks] * num_levels if isinstance(num_res_blocks, int) else num_res_blocks

    def conv(name, h, **options):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def linear(name, h):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm_silu(name, h):
        return F.silu(norm(name, h))

    def norm(name, h):
        return F.group_norm(h, groups, p[f"{name}.weight"], p[f"{name}.bias"], eps=norm_eps)

    def halved(h):
        return sum(h[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4

    def doubled(h):
        return h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def residual(name, h, resized=lambda h: h):
        r = conv(f"{name}.conv1", resized(norm_silu(f"{name}.norm1", h)), padding=1)
        h = resized(h)
        told = linear(f"{name}.time", F.silu(time))[:, :, None, None]
        if scale_shift:
            c = r.shape[1]
            r = norm(f"{name}.norm2", r) * (1 + told[:, :c]) + told[:, c:]
        else:
            r = norm(f"{name}.norm2", r + told)
        r = F.dropout(F.silu(r), dropout)
        r = conv(f"{name}.conv2", r, padding=1)
        return r + (h if h.shape[1] == r.shape[1] else conv(f"{name}.shortcut", h))

    def attention(name, h, level):
        c = h.shape[1]
        tokens = norm(f"{name}.norm", h).permute(0, 2, 3, 1).reshape(len(h), -1, c)
        q, k, v = linear(f"{name}.qkv", tokens).split(c, dim=2)
        d = (
            head_channels
            if isinstance(head_channels, int)
            else (head_channels or {level: c})[level]
        )
        heads = [slice(first, first + d) for first in range(0, c, d)]
        attended = [
            torch.softmax(q[..., head] @ k[..., head].mT * d**-0.5, dim=2) @ v[..., head]
            for head in heads
        ]
        out = linear(f"{name}.out", torch.cat(attended, dim=2))
        return h + out.mT.reshape(h.shape)

    def block(way, position, level, j, h):
        h = residual(f"{way}.{position}.blocks.{j}", h)
        if level in attention_levels:
            h = attention(f"{way}.{position}.attentions.{j}", h, level)
        return h

    features = sinusoid(t, p["time1.weight"].shape[1], embedding).to(x.dtype)  # tested alone
    time = linear("time2", F.silu(linear("time1", features)))
    if cond is not None:
        time = time + cond @ p["cond.weight"].T

    h = conv("stem", patches(x, patch), padding=1)
    skips = [h]
    for level in range(num_levels):
        for j in range(depths[level]):
            h = block("down", level, level, j, h)
            skips.append(h)
        if level < num_levels - 1 and downsample == "residual":
            h = residual(f"down.{level}.resample", h, halved)
            skips.append(h)
        elif level < num_levels - 1:
            h = F.pad(h, (0, 1, 0, 1) if downsample == "asymmetric" else (1, 1, 1, 1))
            h = conv(f"down.{level}.resample.conv", h, stride=2)
            skips.append(h)

    h = residual("middle2", attention("middle_attention", residual("middle1", h), num_levels - 1))

    for position, level in enumerate(reversed(range(num_levels))):
        for j in range(depths[level] + 1):
            h = block("up", position, level, j, torch.cat([h, skips.pop()], dim=1))
        if level > 0 and downsample == "residual":
            h = residual(f"up.{position}.resample", h, doubled)
        elif level > 0:
            h = conv(f"up.{position}.resample.conv", doubled(h), padding=1)
    assert not skips
    return pixels(conv("out", norm_silu("norm", h), padding=1), patch)
