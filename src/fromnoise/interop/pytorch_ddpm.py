"""Import checkpoints of the CIFAR-10 U-Net of w86763777/pytorch-ddpm and zoubohao's project.

That U-Net keeps the blocks of all levels in one flat list. The number of resampling layers before a
block gives its level here. The layers are those of `networks.ddpm` with `embedding: interleaved`,
`downsample: symmetric` and `norm_eps: 1e-5`.
"""

import re
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop.torch_files import ImportedModel, Payload, Weights, strip_prefixes

LAYERS = {  # in a block; numbers are positions in a Sequential
    "block1.0": "norm1",
    "block1.2": "conv1",
    "temb_proj.1": "time",
    "block2.0": "norm2",
    "block2.3": "conv2",
    "shortcut": "shortcut",
}
OUTSIDE = {
    "time_embedding.timembedding.1": "time1",
    "time_embedding.timembedding.3": "time2",
    "head": "stem",
    "tail.0": "norm",
    "tail.2": "out",
}
NOTES = (
    "the file has no settings, so β goes from 1e-4 to 0.02, and there are 32 groups and, if the "
    "file has no x_T, 32x32 pixels. Change them with diffusion.schedule.beta_T= and size=",
    "x̂_0 is not clamped, as in the program. Change this with sampling.clamp=true",
)
TABLE = "time_embedding.timembedding.0.weight"  # (T, channels)


def w86763777(payload: Payload) -> ImportedModel | None:
    """Convert ckpt.pt of pytorch-ddpm: {net_model, ema_model, sched, optim, step, x_T}."""
    if not {"net_model", "ema_model"} <= payload.keys() or not _is_unet(payload["ema_model"]):
        return None
    ema, raw = (_clean(payload[key]) for key in ("ema_model", "net_model"))
    x_T = payload.get("x_T")
    side = x_T.shape[-1] if isinstance(x_T, Tensor) else 32
    spec = _spec(ema, side, {"name": "ddpm", "variance": "large"})
    return ImportedModel(spec, _convert(ema), _convert(raw), int(payload.get("step", 0)), NOTES)


def zoubohao(payload: Payload) -> ImportedModel | None:
    """Convert ckpt_199_.pt of DenoisingDiffusionProbabilityModel-ddpm-: a state dict."""
    state = _clean(payload) if all(isinstance(v, Tensor) for v in payload.values()) else {}
    if "cond_embedding.condEmbedding.0.weight" in state:
        raise CheckpointError(
            "this is the project's conditional network, which has other layers. Import its "
            "unconditional one, ckpt_N_.pt of Main.py, or train a conditional one with the recipe "
            "cifar10-classes."
        )
    if not _is_unet(state):
        return None
    spec = _spec(state, 32, {"name": "ddpm", "variance": "large"})
    return ImportedModel(spec, None, _convert(state), notes=NOTES)


def _is_unet(state: Any) -> bool:
    names = _clean(state) if isinstance(state, dict) else {}
    return {TABLE, "downblocks.0.block1.0.weight", "tail.2.weight"} <= names.keys()


def _clean(state: Weights) -> dict[str, Tensor]:
    return strip_prefixes(state, "module.")  # of DataParallel


def _levels(state: Weights, blocks: str) -> list[list[int]]:
    """Return the indices of the blocks in the flat list `blocks`, one list per level."""
    indices = sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{blocks}.")})
    runs = groupby(indices, lambda index: f"{blocks}.{index}.main.weight" in state)
    return [list(run) for is_resampling, run in runs if not is_resampling]


def _spec(state: Weights, side: int, sampler: dict[str, Any]) -> dict[str, Any]:
    T, channels = state[TABLE].shape
    levels = _levels(state, "downblocks")
    firsts = [level[0] for level in levels]
    return {
        "network": {
            "name": "ddpm",
            "channels": channels,
            "multipliers": [
                state[f"downblocks.{i}.block1.2.weight"].shape[0] // channels for i in firsts
            ],
            "num_res_blocks": len(levels[0]),
            "attention_levels": [
                level
                for level, i in enumerate(firsts)
                if f"downblocks.{i}.attn.proj.weight" in state
            ],
            "groups": 32,
            "embedding": "interleaved",
            "downsample": "symmetric",
            "norm_eps": 1e-5,
        },
        "diffusion": {
            "T": T,
            "schedule": {"name": "linear", "beta_1": 1e-4, "beta_T": 0.02},
            "prediction": "eps",
        },
        "sampling": {"sampler": sampler, "steps": T, "clamp": False},
        "channels": state["head.weight"].shape[1],
        "size": [side, side],
    }


def _convert(state: Weights) -> dict[str, Tensor]:
    """Return the weights under the names here."""
    places = {"middleblocks.0": "middle1", "middleblocks.1": "middle2"}
    attentions = {"middleblocks.0": "middle_attention"}
    for side in ("down", "up"):
        for level, blocks in enumerate(_levels(state, f"{side}blocks")):
            for j, i in enumerate(blocks):
                places[f"{side}blocks.{i}"] = f"{side}.{level}.blocks.{j}"
                attentions[f"{side}blocks.{i}"] = f"{side}.{level}.attentions.{j}"
            places[f"{side}blocks.{blocks[-1] + 1}"] = f"{side}.{level}"  # its resampling, if any

    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path, kind = name.rsplit(".", 1)
        if name == TABLE or ".attn.proj_" in name:
            continue  # the table is computed, q, k and v are joined below
        if path in OUTSIDE:
            weights[f"{OUTSIDE[path]}.{kind}"] = tensor
            continue
        match = re.fullmatch(r"(\w+\.\d+)\.(.+)", path)
        if match is None:
            raise KeyError(f"unknown layer {name}")
        block, layer = match.groups()
        if layer == "attn.proj":
            weights[f"{attentions[block]}.out.{kind}"] = _as_linear(tensor)
        elif layer == "attn.group_norm":
            weights[f"{attentions[block]}.norm.{kind}"] = tensor
        elif layer == "main":
            weights[f"{places[block]}.resample.conv.{kind}"] = tensor
        else:
            weights[f"{places[block]}.{LAYERS[layer]}.{kind}"] = tensor
    for block, place in attentions.items():
        for kind in ("weight", "bias"):
            parts = [state.get(f"{block}.attn.proj_{letter}.{kind}") for letter in "qkv"]
            if parts[0] is not None:
                weights[f"{place}.qkv.{kind}"] = torch.cat([_as_linear(part) for part in parts])
    return weights


def _as_linear(tensor: Any) -> Tensor:
    """Return the weight (out, in, 1, 1) of a 1×1 convolution as (out, in). Keep a bias."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor
