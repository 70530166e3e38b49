"""Checkpoints of the CIFAR-10 U-Net that w86763777/pytorch-ddpm and zoubohao's project share.

Theirs keeps the blocks of all levels in one flat list, so a block's place here is found by counting
the resampling layers before it. The layers are those of `networks.ddpm`, with `embedding:
interleaved`, `downsample: symmetric` and the norm's epsilon of 1e-5.
"""

import re
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop.torch_files import Foreign, Payload, Weights, without_prefix

LAYERS = {  # within a block; the numbers count the layers of a Sequential
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
    "assumed, for the weights do not tell: β from 1e-4 to 0.02, 32 groups, and without an x_T in "
    "the file 32x32 pixels; change them with diffusion.schedule.beta_T=, size=",
    "x̂_0 is not clamped before the mean of each step, as in that program; sampling.clamp=true does",
)
TABLE = "time_embedding.timembedding.0.weight"  # (T, channels)


def w86763777(payload: Payload) -> Foreign | None:
    """ckpt.pt of w86763777/pytorch-ddpm: {net_model, ema_model, sched, optim, step, x_T}."""
    if not {"net_model", "ema_model"} <= payload.keys() or not _is_unet(payload["ema_model"]):
        return None
    ema, raw = (_clean(payload[key]) for key in ("ema_model", "net_model"))
    x_T = payload.get("x_T")
    side = x_T.shape[-1] if isinstance(x_T, Tensor) else 32
    spec = _spec(ema, side, {"name": "ddpm", "variance": "large"})
    return Foreign(spec, _ours(ema), _ours(raw), int(payload.get("step", 0)), NOTES)


def zoubohao(payload: Payload) -> Foreign | None:
    """ckpt_199_.pt of zoubohao's DenoisingDiffusionProbabilityModel-ddpm-: a bare state dict."""
    state = _clean(payload) if all(isinstance(v, Tensor) for v in payload.values()) else {}
    if "cond_embedding.condEmbedding.0.weight" in state:
        raise CheckpointError(
            "this is the project's conditional network, which has other layers (5x5 convolutions) "
            "than its plain one; the plain one, ckpt_N_.pt of Main.py, can be imported, and the "
            "recipe cifar10-classes trains a conditional one"
        )
    if not _is_unet(state):
        return None
    spec = _spec(state, 32, {"name": "ddpm", "variance": "large"})
    return Foreign(spec, None, _ours(state), notes=NOTES)


def _is_unet(state: Any) -> bool:
    names = _clean(state) if isinstance(state, dict) else {}
    return {TABLE, "downblocks.0.block1.0.weight", "tail.2.weight"} <= names.keys()


def _clean(state: Weights) -> dict[str, Tensor]:
    return without_prefix(state, "module.")  # of DataParallel


def _levels(state: Weights, way: str) -> list[list[int]]:
    """The places of the blocks in the flat list `way`, one list a level."""
    places = sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{way}.")})
    runs = groupby(places, lambda place: f"{way}.{place}.main.weight" in state)
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


def _ours(state: Weights) -> dict[str, Tensor]:
    """The weights under our names."""
    places = {"middleblocks.0": "middle1", "middleblocks.1": "middle2"}
    attentions = {"middleblocks.0": "middle_attention"}
    for way in ("down", "up"):
        for level, blocks in enumerate(_levels(state, f"{way}blocks")):
            for j, i in enumerate(blocks):
                places[f"{way}blocks.{i}"] = f"{way}.{level}.blocks.{j}"
                attentions[f"{way}blocks.{i}"] = f"{way}.{level}.attentions.{j}"
            places[f"{way}blocks.{blocks[-1] + 1}"] = f"{way}.{level}"  # its resampling, if any

    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path, kind = name.rsplit(".", 1)
        if name == TABLE or ".attn.proj_" in name:
            continue  # the table is computed, and q, k, v are joined below
        if path in OUTSIDE:
            ours[f"{OUTSIDE[path]}.{kind}"] = tensor
            continue
        found = re.fullmatch(r"(\w+\.\d+)\.(.+)", path)
        if found is None:
            raise KeyError(f"{name} is of no layer of this network")
        block, layer = found.groups()
        if layer == "attn.proj":
            ours[f"{attentions[block]}.out.{kind}"] = _as_linear(tensor)
        elif layer == "attn.group_norm":
            ours[f"{attentions[block]}.norm.{kind}"] = tensor
        elif layer == "main":
            ours[f"{places[block]}.resample.conv.{kind}"] = tensor
        else:
            ours[f"{places[block]}.{LAYERS[layer]}.{kind}"] = tensor
    for block, place in attentions.items():
        for kind in ("weight", "bias"):
            parts = [state.get(f"{block}.attn.proj_{letter}.{kind}") for letter in "qkv"]
            if parts[0] is not None:
                ours[f"{place}.qkv.{kind}"] = torch.cat([_as_linear(part) for part in parts])
    return ours


def _as_linear(tensor: Any) -> Tensor:
    """A 1×1 convolution's weight (out, in, 1, 1) as a linear layer's; a bias as it is."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor
