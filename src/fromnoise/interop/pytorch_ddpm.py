"""Import checkpoints of the CIFAR-10 U-Net of w86763777/pytorch-ddpm and zoubohao's project.

That U-Net keeps the blocks of all levels in one flat list. The level of a block here is the number
of resampling layers before it. The layers are those of `networks.ddpm` with `embedding:
interleaved`, `downsample: symmetric` and `norm_eps: 1e-5`.
"""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import torch_files
from fromnoise.interop.structure import LAYER, under

RENAMES = (  # numbers are positions in a Sequential
    (r"\.block([12])\.0\.", r".norm\1."),
    (r"\.block1\.2\.|\.block2\.3\.", lambda m: f".conv{m[0][6]}."),
    (r"\.temb_proj\.1\.", ".time."),
    (r"\.main\.", ".resample.conv."),
    (r"^time_embedding\.timembedding\.1\.", "time1."),
    (r"^time_embedding\.timembedding\.3\.", "time2."),
    (r"^head\.", "stem."),
    (r"^tail\.0\.", "norm."),
    (r"^tail\.2\.", "out."),
    (r"\.attn\.group_norm\.", ".attn.norm."),
    (r"\.attn\.proj\.", ".attn.out."),
    (r"^middleblocks\.0\.attn\.", "middle_attention."),
    (r"^middleblocks\.0\.", "middle1."),
    (r"^middleblocks\.1\.", "middle2."),
)
TABLE = "time_embedding.timembedding.0.weight"  # (T, channels)
NAMES = {TABLE, "downblocks.0.block1.0.weight", "tail.2.weight"}
BLOCKS = (
    *under("block1.{0,2}", LAYER),
    *under("temb_proj.1", LAYER),
    *under("block2.{0,3}", LAYER),
    *under("main", LAYER),  # on level 0, too; the next two start on level 1
    *under("shortcut", LAYER),
    *under("attn.{group_norm,proj_q,proj_k,proj_v,proj}", LAYER),
)
STRUCTURE = (
    TABLE,
    *under("time_embedding.timembedding.{1,3}", LAYER),
    *under("head", LAYER),
    *under("{downblocks,middleblocks,upblocks}.*", BLOCKS),
    *under("tail.{0,2}", LAYER),
)
STRUCTURES = (STRUCTURE,)


def w86763777(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert ckpt.pt of pytorch-ddpm: {net_model, ema_model, sched, optim, step, x_T}."""
    networks = torch_files.find_networks(payload, NAMES)
    if networks.ema is None:
        return None
    x_T = payload.get("x_T")
    side = x_T.shape[-1] if isinstance(x_T, Tensor) else None
    return _imported(networks, side, torch_files.step_of(payload))


def zoubohao(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert ckpt_199_.pt of DenoisingDiffusionProbabilityModel-ddpm-: a state dict."""
    networks = torch_files.find_networks(payload, NAMES)
    if networks.raw is None or networks.ema is not None:
        return None
    if "cond_embedding.condEmbedding.0.weight" in networks.raw.weights:
        raise CheckpointError(
            "this is the project's conditional network, which has other layers. Import its "
            "unconditional one, ckpt_N_.pt of Main.py, or train a conditional one with the recipe "
            "cifar10-classes."
        )
    return _imported(networks, None, torch_files.step_of(payload))


def _levels(state: torch_files.Weights, blocks: str) -> list[list[int]]:
    """Return the indices of the blocks in the flat list `blocks`, one list per level."""
    indices = sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{blocks}.")})
    runs = groupby(indices, lambda index: f"{blocks}.{index}.main.weight" in state)
    return [list(run) for is_resampling, run in runs if not is_resampling]


def _imported(
    networks: torch_files.Networks, side: int | None, step: int
) -> torch_files.ImportedModel:
    state = networks.first.weights
    T, channels = state[TABLE].shape
    levels = _levels(state, "downblocks")
    firsts = [f"downblocks.{level[0]}" for level in levels]
    network = {
        "name": "ddpm",
        "channels": channels,
        "multipliers": [state[f"{i}.block1.2.weight"].shape[0] // channels for i in firsts],
        "num_res_blocks": len(levels[0]),
        "attention_levels": [
            level for level, i in enumerate(firsts) if f"{i}.attn.proj.weight" in state
        ],
        "embedding": "interleaved",
        "downsample": "symmetric",
        "norm_eps": 1e-5,
    }
    assumed = dict.fromkeys(
        (*torch_files.SCHEDULE[1:], "network.groups", "sampling.clamp"), "as in the program"
    )
    if side is None:
        assumed["size"] = "that of CIFAR-10, as in the program"
    return torch_files.imported(
        network,
        networks,
        _convert,
        assumed=assumed,
        step=step,
        side=side or 32,
        betas=T,
        clamp=False,
    )


def _convert(state: torch_files.Weights) -> dict[str, Tensor]:
    """Return the weights under the names here, with q, k and v in one layer."""
    places: list[tuple[str, Any]] = []
    for side in ("down", "up"):
        for level, blocks in enumerate(_levels(state, f"{side}blocks")):
            for j, i in enumerate(blocks):
                block = rf"^{side}blocks\.{i}\."
                places.append((rf"{block}attn\.", f"{side}.{level}.attentions.{j}."))
                places.append((block, f"{side}.{level}.blocks.{j}."))
            resampling = rf"^{side}blocks\.{blocks[-1] + 1}\.(?=resample)"
            places.append((resampling, f"{side}.{level}."))
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == TABLE or ".attn.proj_k." in name or ".attn.proj_v." in name:
            continue  # the table is computed
        parts = [tensor]
        if ".attn.proj_q." in name:
            parts = [state[name.replace("proj_q", f"proj_{letter}")] for letter in "qkv"]
        if ".attn.proj" in name:  # 1×1 convolutions, whose biases are flat
            parts = [part.flatten(1) if part.ndim == 4 else part for part in parts]
        joined[name.replace(".proj_q.", ".qkv.")] = torch.cat(parts)
    return torch_files.rename(joined, [*RENAMES, *places])
