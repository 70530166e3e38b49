"""The network `linear_attention` written out as functions of its weights, without fused kernels."""

import math
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
    multipliers: Sequence[int] = (1, 2, 4, 8),
    full_attention_levels: Sequence[int] | None = None,
    dropout: float = 0.0,
    **_: object,  # what the weights tell
) -> Tensor:
    """The output for the weights p, in the precision of x, with `dropout` acting."""
    num_levels = len(multipliers)
    if full_attention_levels is None:
        full_attention_levels = [num_levels - 1]

    def conv(name, h, **options):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def linear(name, h):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, h):
        length = h.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return h / length * h.shape[1] ** 0.5 * p[f"{name}.gain"].reshape(1, -1, 1, 1)

    def residual(name, h):
        scale, shift = linear(f"{name}.time", F.silu(time))[:, :, None, None].chunk(2, dim=1)
        r = norm(f"{name}.norm1", conv(f"{name}.conv1", h, padding=1))
        r = F.dropout(F.silu(r * (scale + 1) + shift), dropout)
        r = F.silu(norm(f"{name}.norm2", conv(f"{name}.conv2", r, padding=1)))
        return r + (h if h.shape[1] == r.shape[1] else conv(f"{name}.shortcut", h))

    def attention(name, h, full):
        memory = p[f"{name}.memory"]  # (k and v, heads, memories, d)
        _, heads, _, d = memory.shape
        qkv = torch.einsum("oc,bchw->bohw", p[f"{name}.qkv.weight"], norm(f"{name}.norm", h))
        q, k, v = qkv.reshape(len(h), 3, heads, d, -1).mT.unbind(dim=1)  # (B,heads,HW,d)
        k = torch.cat([memory[0].expand(len(h), *memory.shape[1:]), k], dim=2)
        v = torch.cat([memory[1].expand(len(h), *memory.shape[1:]), v], dim=2)
        if full:
            r = torch.softmax(q @ k.mT / d**0.5, dim=3) @ v
        else:
            r = torch.softmax(q, dim=3) / d**0.5 @ (torch.softmax(k, dim=2).mT @ v)
        r = linear(f"{name}.out", r.transpose(1, 2).flatten(2)).mT.reshape(h.shape)
        return h + (r if full else norm(f"{name}.out_norm", r))

    dim = p["time1.weight"].shape[1]
    i = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angle = t[:, None] * torch.exp(-math.log(10000.0) * i / (dim // 2 - 1))
    features = torch.cat([angle.sin(), angle.cos()], dim=1).to(x.dtype)
    time = linear("time2", F.gelu(linear("time1", features)))
    if cond is not None:
        time = time + cond @ p["cond.weight"].T

    stem = h = conv("stem", x, padding=3)
    skips = []
    for level in range(num_levels):
        h = residual(f"down.{level}.block1", h)
        skips.append(h)
        h = residual(f"down.{level}.block2", h)
        h = attention(f"down.{level}.attention", h, level in full_attention_levels)
        skips.append(h)
        inner = level == num_levels - 1
        h = conv(f"down.{level}.resample", h, **({"padding": 1} if inner else {"stride": 2}))

    h = attention("middle_attention", residual("middle1", h), True)
    h = residual("middle2", h)

    for position, level in enumerate(reversed(range(num_levels))):
        h = residual(f"up.{position}.block1", torch.cat([h, skips.pop()], dim=1))
        h = residual(f"up.{position}.block2", torch.cat([h, skips.pop()], dim=1))
        h = attention(f"up.{position}.attention", h, level in full_attention_levels)
        if level > 0:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        h = conv(f"up.{position}.resample.1" if level else f"up.{position}.resample", h, padding=1)
    assert not skips
    return conv("out", residual("last", torch.cat([h, stem], dim=1)))
