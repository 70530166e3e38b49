"""Import checkpoints of TeaPearce/Conditional_Diffusion_MNIST and its forks.

Its `DDPM.state_dict()` holds the network under `nn_model.` and tables of T + 1 entries. Index t of
a table is timestep t here. The original leaves the noise of its index 0, σ = √(1−ᾱ) = 0.01, in
every sample. Here that noise belongs to the first step and is removed with it.

A fork for i-CLEVR has the name `layers` instead of `model`, which `structure.py` pairs.
"""

import torch
from torch import Tensor

from fromnoise.interop import tables, torch_files
from fromnoise.interop.structure import BATCH_NORM, LAYER, under

RENAMES = (  # in this order: layers of a block, then blocks
    (r"\.conv([12])\.0\.", r".conv\1."),
    (r"\.conv([12])\.1\.", r".norm\1."),
    (r"^init_conv\.", "stem."),
    (r"^(down[12])\.model\.0\.", r"\1."),
    (r"^up0\.0\.", "middle."),
    (r"^up0\.1\.", "middle_norm."),
    (r"^(up[12])\.model\.0\.", r"\1.conv."),
    (r"^(up[12])\.model\.([12])\.", r"\1.block\2."),
    (r"^context", "cond"),
    (r"^(time|cond)embed([12])\.model\.0\.", r"\1\2.linear1."),
    (r"^(time|cond)embed([12])\.model\.2\.", r"\1\2.linear2."),
    (r"^out\.0\.", "out1."),
    (r"^out\.1\.", "out_norm."),
    (r"^out\.3\.", "out2."),
)
NAMES = {"init_conv.conv1.0.weight", "contextembed1.model.0.weight"}
CONVS = [
    name for i in "12" for name in (*under(f"conv{i}.0", LAYER), *under(f"conv{i}.1", BATCH_NORM))
]
STRUCTURE = (
    *under("init_conv", CONVS),
    *under("down{1,2}.model.0", CONVS),
    *under("{timeembed,contextembed}{1,2}.model.{0,2}", LAYER),
    *under("up0.{0,1}", LAYER),
    *under("up{1,2}.model", under("0", LAYER), under("{1,2}", CONVS)),
    *under("out.{0,1,3}", LAYER),
)
STRUCTURES = (STRUCTURE,)
T = 400  # if the file has no tables


def context_unet(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert model_N.pth: the state dict of a `DDPM`, or only that of its `ContextUnet`."""
    networks = torch_files.find_networks(payload, NAMES)
    if not networks:
        return None
    network, beside, _ = networks.first
    table = beside.get("sqrt_beta_t")
    features, channels = network["init_conv.conv1.0.weight"].shape[:2]
    count = network["contextembed1.model.0.weight"].shape[1]
    expand = network["up0.0.weight"].shape[2]
    pool = 7 if expand == 8 else expand
    digits = [str(i) for i in range(10)]
    assumed = {
        "label_names": "the file has no names of its labels",
        "sampling.clamp": "as in the program",
        "data_range": f"as in the program for {channels} channel{'s' * (channels > 1)}",
        "size": f"as in the program for a transposed convolution of {expand}x{expand}",
    }
    if expand not in (7, 8):
        assumed["network.pool"] = "that of the transposed convolution"
    if table is None:
        assumed |= {
            "diffusion.T": "the file has no tables of the schedule",
            "diffusion.schedule": "β from 1e-4 to 0.02, as in the program",
        }
    return torch_files.imported(
        {"name": "context", "features": features, "pool": pool, "expand": expand},
        networks,
        _convert,
        assumed=assumed,
        step=torch_files.step_of(payload),
        side=64 if expand == 8 else 4 * expand,
        betas=_betas(table),
        clamp=False,
        data_range=[0, 1] if channels == 1 else [-1, 1],
        label_names=digits if count == 10 else [f"class_{i}" for i in range(count)],
    )


def _betas(table: Tensor | None) -> Tensor:
    """Return β_1 … β_T from √β_0 … √β_T, so that ᾱ_t is unchanged for t ≥ 1.

    This is the most exact table of the file: 1 − β in float32 loses digits of a small β.
    """
    steps = T if table is None else len(table) - 1
    published = torch.linspace(1e-4, 0.02, steps + 1, dtype=torch.float64)
    # half precision has few digits, but enough to recognise the published table
    if table is None or (tables.is_half(table) and tables.same(table, published.sqrt())):
        beta = published
    else:
        beta = table.double().square()
    return torch.cat([1 - (1 - beta[:1]) * (1 - beta[1:2]), beta[2:]])


def _convert(network: torch_files.Weights) -> torch_files.Weights:
    weights = torch_files.rename(network, RENAMES)
    for name in ("cond1.linear1.weight", "cond2.linear1.weight"):
        weights[name] = -weights[name]  # a present label is −1 there and +1 here
    return weights
