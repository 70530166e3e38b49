"""Import checkpoints of TeaPearce/Conditional_Diffusion_MNIST and its forks.

Its `DDPM.state_dict()` holds the network under `nn_model.` and tables of T + 1 entries. Index t of
a table is timestep t here. The original leaves the noise of its index 0, σ = √(1−ᾱ) = 0.01, in
every sample. Here that noise belongs to the first step and is removed with it.
"""

import torch

from fromnoise.interop import torch_files

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
T = 400  # if the file has no tables


def context_unet(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert model_N.pth: the state dict of a `DDPM`, or only that of its `ContextUnet`."""
    network = torch_files.network_in(payload, NAMES, inside="nn_model.")
    if network is None:
        return None
    table = torch_files.strip_prefixes(payload, "module.", "_orig_mod.").get("sqrt_beta_t")
    features, channels = network["init_conv.conv1.0.weight"].shape[:2]
    count = network["contextembed1.model.0.weight"].shape[1]
    expand = network["up0.0.weight"].shape[2]
    pool = 7 if expand == 8 else expand
    size = 64 if expand == 8 else 4 * expand
    notes = {
        f"the file has no schedule, so T is {T} and β goes from 1e-4 to 0.02. Change them with "
        "diffusion.T= and diffusion.schedule=": table is None,
        f"the file has no pooling window, so it is {pool}, that of the transposed convolution. "
        "Change it with network.pool=": expand not in (7, 8),
        f"the file has no image size, so it is {size}x{size}. Change it with size=": expand != 7,
        "images with one channel are in [0, 1], as in the program's MNIST script. Change this with "
        "data_range=[-1,1]": channels == 1,
        f"the file has no names of its {count} labels. Set them with label_names=[…]": count != 10,
        "x̂_0 is not clamped, as in the program. Change this with sampling.clamp=true": True,
    }
    if table is None:
        table = torch.linspace(1e-4, 0.02, T + 1, dtype=torch.float64).sqrt()
    # β_1 … β_T from √β_0 … √β_T, so that ᾱ_t is unchanged for t ≥ 1. This table is the most exact
    # one: 1 − β in float32 has few digits of a small β.
    beta = table.double().square()
    weights = torch_files.rename(network, RENAMES)
    for name in ("cond1.linear1.weight", "cond2.linear1.weight"):
        weights[name] = -weights[name]  # a present label is −1 there and +1 here
    return torch_files.imported(
        {"name": "context", "features": features, "pool": pool, "expand": expand},
        weights,
        [note for note, holds in notes.items() if holds],
        side=size,
        betas=torch.cat([1 - (1 - beta[:1]) * (1 - beta[1:2]), beta[2:]]),
        clamp=False,
        data_range=[0, 1] if channels == 1 else [-1, 1],
        label_names=[str(i) if count == 10 else f"class_{i}" for i in range(count)],
    )
