"""The network `dense_attention` written out as functions of its weights, without fused kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def definition(
    p: dict[str, Tensor],
    x: Tensor,
    t: Tensor,
    cond: Tensor | None = None,
    *,
    downsample: Sequence[bool] = (True, True, False),
    num_layers: Sequence[int] = (2, 2, 2),
    heads: int = 4,
    attention_levels: Sequence[int] | None = None,
    groups: int = 8,
    **_: object,  # the widths, which the weights tell
) -> Tensor:
    """The output for the weights p, in the precision of x."""
    num_blocks = len(downsample)
    num_middle = len({name.split(".")[1] for name in p if name.startswith("middle.")})

    def conv(name, h, **options):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def linear(name, h):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, h):
        return F.group_norm(h, groups, p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-5)

    def residual(name, h):
        r = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", h)), padding=1)
        r = r + linear(f"{name}.time", F.silu(time))[:, :, None, None]
        r = conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", r)), padding=1)
        return r + conv(f"{name}.shortcut", h)

    def attention(name, h):
        batch, c, height, width = h.shape
        tokens = norm(f"{name}.norm", h).reshape(batch, c, height * width).mT
        qkv = linear(f"{name}.qkv", tokens)
        d = c // heads
        merged = []
        for head in range(heads):
            q, k, v = (qkv[:, :, i * c + head * d : i * c + (head + 1) * d] for i in range(3))
            merged.append(torch.softmax(q @ k.mT / d**0.5, dim=2) @ v)
        out = linear(f"{name}.out", torch.cat(merged, dim=2))
        return h + out.mT.reshape(h.shape)

    def attends(level):
        return attention_levels is None or level in attention_levels

    half = p["time1.weight"].shape[1] // 2
    angle = t.float()[:, None] / 10000 ** (torch.arange(half, device=t.device) / half)
    time = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1).to(x.dtype)
    time = linear("time2", F.silu(linear("time1", time)))
    if cond is not None:
        time = time + cond @ p["cond.weight"].T

    h = conv("stem", x, padding=1)
    given = []
    for level in range(num_blocks):
        given.append(h)
        for j in range(num_layers[0]):
            h = residual(f"down.{level}.residuals.{j}", h)
            if attends(level):
                h = attention(f"down.{level}.attentions.{j}", h)
        if downsample[level]:
            h = conv(f"down.{level}.resample", h, stride=2, padding=1)

    for i in range(num_middle):
        h = residual(f"middle.{i}.residuals.0", h)
        for j in range(num_layers[1]):
            h = attention(f"middle.{i}.attentions.{j}", h)
            h = residual(f"middle.{i}.residuals.{j + 1}", h)

    for position, level in enumerate(reversed(range(num_blocks))):
        if downsample[level]:
            weight, bias = p[f"up.{position}.resample.weight"], p[f"up.{position}.resample.bias"]
            h = F.conv_transpose2d(h, weight, bias, stride=2, padding=1)
        h = torch.cat([h, given[level]], dim=1)
        for j in range(num_layers[2]):
            h = residual(f"up.{position}.residuals.{j}", h)
            if attends(level):
                h = attention(f"up.{position}.attentions.{j}", h)
    return conv("out", F.silu(norm("norm", h)), padding=1)
