"""The network `context` written out as functions of its weights, without fused kernels.

Where torch has one operation for what is written out here, the benchmarks put that in its place.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def grown(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every pixel becomes factor × factor pixels. weight: (c_in, c_out, factor, factor)."""
    pixels = torch.einsum("bchw,coij->bohiwj", h, weight).flatten(4).flatten(2, 3)
    return pixels + bias.reshape(-1, 1, 1)


def normalised_by_batch(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel by its mean and variance over all images and pixels."""
    mean, variance = h.mean(dim=(0, 2, 3)), h.var(dim=(0, 2, 3), correction=0)
    return normalised(h, mean, variance, weight, bias)


def normalised(h: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel by a mean and a variance of its own."""
    factor = weight / (variance + 1e-5).sqrt()
    shift = bias - mean * factor
    return h * factor.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)


def halved(h: Tensor) -> Tensor:
    """The largest of each 2 × 2 pixels."""
    return h.unflatten(3, (-1, 2)).amax(dim=4).unflatten(2, (-1, 2)).amax(dim=3)


def definition(
    p: dict[str, Tensor],
    x: Tensor,
    t: Tensor,
    cond: Tensor | None = None,
    *,
    T: int = 400,
    pool: int = 7,
    norm: Literal["batch", "group"] = "batch",
    embedding: Literal["scalar", "sinusoid"] = "scalar",
    condition: Literal["multi-hot", "signed"] = "multi-hot",
    training: bool = True,
    **_: object,  # what the weights tell
) -> Tensor:
    """The output for the weights p, in the precision of x; `training` normalises by the batch."""

    def conv(name, h):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    def grow(name, h):
        return grown(h, p[f"{name}.weight"], p[f"{name}.bias"])

    def normalise(name, h, of):
        own = p[f"{name}.weight"], p[f"{name}.bias"]
        if of == "group":
            return F.group_norm(h, 8, *own)
        if training:
            return normalised_by_batch(h, *own)
        return normalised(h, p[f"{name}.running_mean"], p[f"{name}.running_var"], *own)

    def halves(name, h):
        first = F.gelu(normalise(f"{name}.norm1", conv(f"{name}.conv1", h), norm))
        return first, F.gelu(normalise(f"{name}.norm2", conv(f"{name}.conv2", first), norm))

    def embed(name, h):
        for layer in ("linear1", "linear2"):
            h = h @ p[f"{name}.{layer}.weight"].T + p.get(f"{name}.{layer}.bias", 0)
            h = F.gelu(h) if layer == "linear1" else h
        return h[:, :, None, None]

    def told(h, place):
        if f"cond{place}.linear1.weight" in p:
            said = torch.zeros(len(x), p["cond1.linear1.weight"].shape[1], dtype=x.dtype)
            said = said if cond is None else cond
            if condition == "signed":
                h = h + h * embed(f"cond{place}", said)
            else:
                h = h * embed(f"cond{place}", torch.where(said > 0, said, 0))
        return h + embed(f"time{place}", time)

    if embedding == "scalar":
        time = (t[:, None].to(x.dtype) + 1) / T
    else:
        half = len(p["stem.conv1.bias"]) // 2
        i = torch.arange(half, dtype=torch.float32, device=t.device)
        angle = t[:, None] * torch.exp(-math.log(10000.0) * i / (half - 1))
        time = torch.cat([angle.sin(), angle.cos()], dim=1).to(x.dtype)

    first, second = halves("stem", x)
    stem = ((x if x.shape[1] == first.shape[1] else first) + second) / 1.414
    down1 = halved(halves("down1", stem)[1])
    down2 = halved(halves("down2", down1)[1])
    rows, columns = (n // pool for n in down2.shape[2:])
    kept = down2[:, :, : rows * pool, : columns * pool]
    h = F.gelu(kept.unflatten(3, (columns, pool)).unflatten(2, (rows, pool)).mean(dim=(3, 5)))

    h = torch.relu(normalise("middle_norm", grow("middle", h), "group"))
    for place, skip in ((1, down2), (2, down1)):
        h = grow(f"up{place}.conv", torch.cat([told(h, place), skip], dim=1))
        h = halves(f"up{place}.block2", halves(f"up{place}.block1", h)[1])[1]
    h = conv("out1", torch.cat([h, stem], dim=1))
    return conv("out2", torch.relu(normalise("out_norm", h, "group")))
