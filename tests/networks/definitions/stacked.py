"""The network `stacked` written out as functions of its weights, without fused kernels."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def definition(
    p: dict[str, Tensor],
    x: Tensor,
    t: Tensor,
    cond: Tensor | None = None,
    *,
    channels: Sequence[int] = (64, 128, 256, 512, 512, 384),
    attention: Sequence[bool] = (False, True, False, False, False, True),
    upscale: Sequence[bool] = (False, False, False, True, True, True),
    groups: int = 32,
    dropout: float = 0.1,
    heads: int = 8,
    time: Literal["raw", "projected"] = "raw",
    attention_form: Literal["plain", "residual"] = "plain",
    **_: object,  # what the weights tell
) -> Tensor:
    """The output for the weights p, in the precision of x, with `dropout` acting."""

    def conv(name, h, **options):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def linear(name, h):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, h):
        return F.group_norm(h, groups, p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-5)

    def residual(name, h):
        c = h.shape[1]
        added = embedding[:, :c]
        if time == "projected":
            added = linear(f"{name}.time", F.silu(embedding))
        h = h + added[:, :, None, None]
        r = conv(f"{name}.conv1", torch.relu(norm(f"{name}.norm1", h)), padding=1)
        r = F.dropout(r, dropout)
        return h + conv(f"{name}.conv2", torch.relu(norm(f"{name}.norm2", r)), padding=1)

    def attend(name, h):
        batch, c, height, width = h.shape
        normed = norm(f"{name}.norm", h) if attention_form == "residual" else h
        tokens = normed.permute(0, 2, 3, 1).reshape(batch, height * width, c)
        rows = linear(f"{name}.qkv", tokens).reshape(batch, height * width, c // heads, heads, 3)
        q, k, v = rows.permute(4, 0, 3, 1, 2)  # (B,heads,HW,C/heads) each
        weights = torch.softmax(q @ k.mT * (c / heads) ** -0.5, dim=3)
        weights = F.dropout(weights, dropout) if attention_form == "plain" else weights
        merged = (weights @ v).permute(0, 2, 3, 1).reshape(tokens.shape)
        out = linear(f"{name}.out", merged).mT.reshape(h.shape)
        return h + out if attention_form == "residual" else out

    d = max(channels)
    frequency = torch.exp(torch.arange(0, d, 2, device=t.device) * (-math.log(10000) / d))
    embedding = torch.empty(len(t), d, device=t.device)
    embedding[:, 0::2] = torch.sin(t[:, None] * frequency)
    embedding[:, 1::2] = torch.cos(t[:, None] * frequency)
    embedding = embedding.to(x.dtype)
    if time == "projected":
        embedding = linear("time2", F.silu(linear("time1", embedding)))
    if cond is not None:
        embedding = embedding + cond @ p["cond.weight"].T

    h = conv("stem", x, padding=1)
    kept = []
    for i in range(len(channels)):
        h = residual(f"layers.{i}.residual1", h)
        if attention[i]:
            h = attend(f"layers.{i}.attention", h)
        h = residual(f"layers.{i}.residual2", h)
        kept.append(h)
        if upscale[i]:
            weight, bias = p[f"layers.{i}.resample.weight"], p[f"layers.{i}.resample.bias"]
            h = F.conv_transpose2d(h, weight, bias, stride=2, padding=1)
        else:
            h = conv(f"layers.{i}.resample", h, stride=2, padding=1)
        if i >= len(channels) // 2:
            h = torch.cat([h, kept[len(channels) - 1 - i]], dim=1)
    return conv("out2", torch.relu(conv("out1", h, padding=1)))
