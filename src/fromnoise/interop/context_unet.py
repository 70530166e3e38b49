"""Checkpoints of TeaPearce/Conditional_Diffusion_MNIST and of what was made from it.

Its `DDPM.state_dict()` holds the network under `nn_model.` and tables of T + 1 entries. Those are
read as ours, so that index t is time t: the residual noise of σ = √(1−ᾱ) = 0.01 that its index 0
leaves in every sample then belongs to the first step, and is removed with it.
"""

from typing import Any

import torch
from torch import Tensor

from fromnoise.interop.torch_files import Foreign, Payload, Weights, renamed, without_prefix

RENAMES = (  # in this order: first the layers of a block, then the blocks
    (r"\.conv([12])\.0\.", r".conv\1."),
    (r"\.conv([12])\.1\.", r".norm\1."),
    (r"^init_conv\.", "stem."),
    (r"^(down[12])\.model\.0\.", r"\1."),
    (r"^up0\.0\.", "middle."),
    (r"^up0\.1\.", "middle_norm."),
    (r"^(up[12])\.model\.0\.", r"\1.conv."),
    (r"^(up[12])\.model\.([12])\.", r"\1.block\2."),
    (r"^timeembed([12])\.model\.0\.", r"time\1.linear1."),
    (r"^timeembed([12])\.model\.2\.", r"time\1.linear2."),
    (r"^contextembed([12])\.model\.0\.", r"cond\1.linear1."),
    (r"^contextembed([12])\.model\.2\.", r"cond\1.linear2."),
    (r"^out\.0\.", "out1."),
    (r"^out\.1\.", "out_norm."),
    (r"^out\.3\.", "out2."),
)
T = 400  # where the file has no tables


def context_unet(payload: Payload) -> Foreign | None:
    """model_N.pth: the state dict of its `DDPM`, or that of its `ContextUnet` alone."""
    state = without_prefix(payload, "module.", "_orig_mod.")
    prefix = "nn_model."
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    network = inside or state
    if not {"init_conv.conv1.0.weight", "contextembed1.model.0.weight"} <= network.keys():
        return None
    notes = []
    table = state.get("sqrt_beta_t")
    if table is None:
        notes.append(
            f"the file has no schedule: T = {T} and β from 1e-4 to 0.02 are assumed; give "
            "diffusion.T and diffusion.schedule for another"
        )
        table = torch.linspace(1e-4, 0.02, T + 1, dtype=torch.float64).sqrt()
    betas = _betas(table)

    features, channels = network["init_conv.conv1.0.weight"].shape[:2]
    expand = network["up0.0.weight"].shape[2]
    pool = 7 if expand == 8 else expand
    size = 64 if expand == 8 else 4 * expand
    if expand not in (7, 8):
        notes.append(
            f"the file does not tell the window of its pooling: {pool}, that of its transposed "
            "convolution, is assumed; give network.pool for another"
        )
    if expand != 7:
        notes.append(
            f"the file does not tell the image size: {size}x{size} is assumed; give size for "
            "another"
        )
    if channels == 1:
        notes.append(
            "one channel: images in [0, 1] are assumed, as in that system's MNIST script; if this "
            "model saw others, give data_range=[-1,1]"
        )
    count = network["contextembed1.model.0.weight"].shape[1]
    spec: dict[str, Any] = {
        "network": {
            "name": "context",
            "features": features,
            "pool": pool,
            "expand": expand,
            "norm": "batch",
            "embedding": "scalar",
            "condition": "multi-hot",
        },
        "diffusion": {
            "T": len(betas),
            "schedule": {"name": "custom", "betas": betas.tolist()},
            "prediction": "eps",
        },
        "sampling": {
            "sampler": {"name": "ddpm", "variance": "large"},
            "steps": len(betas),
            "clamp": False,
        },
        "channels": channels,
        "size": [size, size],
        "data_range": [0, 1] if channels == 1 else [-1, 1],
        "label_names": [str(i) if count == 10 else f"class_{i}" for i in range(count)],
    }
    if count != 10:
        notes.append(f"the file does not name its {count} labels; give label_names=[…]")
    notes.append("x̂_0 is not clamped, as in that program; sampling.clamp=true does")
    return Foreign(spec, None, _ours(network), notes=notes)


def _betas(table: Tensor) -> Tensor:
    """β_1 … β_T from its √β_0 … √β_T: float64 (T,), with ᾱ_t at t ≥ 1 equal to its own.

    Of its tables this one is exact: 1 − β in float32 has few digits of a small β.
    """
    beta = table.double().square()
    first = 1 - (1 - beta[0]) * (1 - beta[1])
    return torch.cat([first[None], beta[2:]])


def _ours(state: Weights) -> dict[str, Tensor]:
    """The weights under our names. There −1 stood for a label that is present, here +1 does."""
    ours = renamed(state, RENAMES)
    for name in ("cond1.linear1.weight", "cond2.linear1.weight"):
        ours[name] = -ours[name]
    return ours
