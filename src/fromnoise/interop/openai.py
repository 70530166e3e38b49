"""Import checkpoints of improved-diffusion and guided-diffusion, `ema_0.9999_N.pt`: state dicts.

Both keep the blocks of all levels in one flat list, with the attention and the change of size after
a block beside it. guided-diffusion may change the size by residual blocks (`resblock_updown`). A
file has neither the number of attention heads nor settings of the diffusion.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import torch_files
from fromnoise.interop.embeddings import NO_LABEL, class_columns, time_columns

LEAVES = (
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".shortcut."),
    (r"\.proj_out\.", ".out."),
    (r"^time_embed\.0\.", "time1."),
    (r"^time_embed\.2\.", "time2."),
    (r"^out\.0\.", "norm."),
    (r"^out\.2\.", "out."),
    (r"^middle_block\.0\.", "middle1."),
    (r"^middle_block\.1\.", "middle_attention."),
    (r"^middle_block\.2\.", "middle2."),
    (r"^input_blocks\.0\.0\.", "stem."),
)
NAMES = {
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "middle_block.1.qkv.weight",
    "output_blocks.0.0.in_layers.0.weight",
}
STRUCTURES = ()
UNET = "this U-Net of OpenAI"
OLD_ORDER = (
    "q, k and v are read head by head; a model with use_new_attention_order needs --format "
    "openai-new-attention"
)
WAYS = ("input", "output")
HEADS, HEAD_CHANNELS = 4, 64  # as most published ones, without and with resblock_updown


def openai(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert the state dict of a `UNetModel`, with or without classes."""
    networks = torch_files.find_networks(payload, NAMES)
    if not networks:
        return None
    state = networks.first.weights
    blocks, levels = _layout(state)
    down = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = [len(state[f"{block}.0.in_layers.2.weight"]) for block in down]
    channels, attended = state["time_embed.0.weight"].shape[1], [f"{b}.1.qkv.weight" for b in down]
    c_in, c_out = state["input_blocks.0.0.weight"].shape[1], len(state["out.2.weight"])
    residual = levels > 1 and f"input_blocks.{1 + blocks}.0.op.weight" not in state
    _check_supported(networks.first, channels, widths, c_in, c_out)
    labels = len(state.get("label_emb.weight", ()))
    network = {
        "name": "ddpm",
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "num_res_blocks": blocks,
        "attention_levels": [i for i, name in enumerate(attended) if name in state],
        "head_channels": HEAD_CHANNELS if residual else [width // HEADS for width in widths],
        "dropout": 0.0,
        "groups": 32,
        "embedding": "interleaved",
        "downsample": "residual" if residual else "symmetric",
        "norm_eps": 1e-5,
        "scale_shift": len(state[f"{down[0]}.0.emb_layers.1.weight"]) == 2 * widths[0],
        "learned_variance": c_out > c_in,
    }
    default = "the default of the program"
    heads = f"{HEAD_CHANNELS} channels per head" if residual else f"{HEADS} heads"
    assumed = {
        **dict.fromkeys(torch_files.SCHEDULE, default),
        "diffusion.prediction": default,
        "size": default,
        "network.dropout": default,
        "network.head_channels": f"the file has no heads; {heads}, as most published ones",
        "sampling.clamp": default,
    }
    notes = [OLD_ORDER]
    if labels:
        assumed["label_names"] = "the file has no names of its classes"
        notes.append(NO_LABEL)
    return torch_files.imported(
        network,
        networks,
        lambda weights: _convert(weights, blocks, levels),
        assumed=assumed,
        notes=notes,
        side=64,
        variance="learned" if c_out > c_in else "large",
        label_names=[f"class_{i}" for i in range(labels)],
    )._replace(arrange=_by_kind)


def openai_new_attention(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert the state dict of a `UNetModel` with `use_new_attention_order`."""
    model = openai(payload)
    if model is None:
        return None
    notes = [note for note in model.notes if note != OLD_ORDER]
    return model._replace(arrange=None, notes=notes)


def _layout(state: torch_files.Weights) -> tuple[int, int]:
    """Return the residual blocks of a level and the number of levels, from the flat lists."""
    places = {tuple(name.split(".")[:3]) for name in state}
    ups = sorted(
        int(i)
        for side, i, j in (place for place in places if place[0] == "output_blocks")
        if int(j) > 0 and f"{side}.{i}.{j}.qkv.weight" not in state
    )
    counts = [len({i for side, i, *_ in places if side == f"{way}_blocks"}) for way in WAYS]
    levels = len(ups) + 1
    blocks = ups[0] if ups else counts[1] - 1
    if counts != [levels * (blocks + 1), levels * (blocks + 1)]:
        raise CheckpointError(
            f"{UNET} has {counts[0]} input and {counts[1]} output blocks, which do not form levels "
            "of equal size. Import one with one num_res_blocks."
        )
    return blocks, levels


def _check_supported(
    network: torch_files.Network, channels: int, widths: list[int], c_in: int, c_out: int
) -> None:
    state = network.weights
    refused = {
        "is a part of a latent diffusion model. Import one over pixels.": "diffusion_model"
        in network.place,
        f"has {c_in} input and {c_out} output channels, as for super-resolution. Import one that "
        "generates images.": c_out not in (c_in, 2 * c_in) or c_in == 6,
        f"has levels of {', '.join(map(str, widths))} channels, which are not multiples of "
        f"{channels}. Import one with integers in channel_mult.": any(w % channels for w in widths),
        f"begins with {len(state['input_blocks.0.0.weight'])} channels instead of {channels}. "
        "Import one whose channel_mult begins with 1.": len(state["input_blocks.0.0.weight"])
        != channels,
    }
    for problem, holds in refused.items():
        if holds:
            raise CheckpointError(f"{UNET} {problem}")


def _convert(weights: torch_files.Weights, blocks: int, levels: int) -> dict[str, Tensor]:
    """Return the weights under the names here, q, k and v still head by head."""
    places: list[tuple[str, Any]] = []
    for level in range(levels):
        first, position = 1 + level * (blocks + 1), levels - 1 - level
        for way, start, at, count in (
            ("input", first, f"down.{level}", blocks),
            ("output", position * (blocks + 1), f"up.{position}", blocks + 1),
        ):
            for j in range(count):
                block = rf"^{way}_blocks\.{start + j}\."
                places.append((rf"{block}0\.", f"{at}.blocks.{j}."))
                places.append((rf"{block}1\.(?=norm|qkv|proj_out)", f"{at}.attentions.{j}."))
        places.append(
            (rf"^input_blocks\.{first + blocks}\.0\.(?:op\.)?", f"down.{level}.resample.")
        )
        last = position * (blocks + 1) + blocks
        places.append((rf"^output_blocks\.{last}\.[12]\.", f"up.{position}.resample."))
    converted: dict[str, Tensor] = {}
    for name, tensor in torch_files.rename(weights, [*places, *LEAVES]).items():
        if name.endswith((".qkv.weight", ".out.weight")) and tensor.ndim == 3:
            tensor = tensor.squeeze(2)  # a 1-D convolution
        if name.endswith((".resample.weight", ".resample.bias")):
            name = name.replace(".resample.", ".resample.conv.")
        converted[name] = tensor
    time = converted["time1.weight"]
    converted["time1.weight"] = time_columns(time, cosines_first=True, in_turn=True)
    if "label_emb.weight" in converted:
        table, bias = converted.pop("label_emb.weight"), converted["time2.bias"]
        converted["cond.weight"], converted["time2.bias"] = class_columns(table, bias)
    return converted


def _by_kind(options: Mapping[str, Any], weights: torch_files.Weights) -> dict[str, Tensor]:
    """Return the weights with the rows of all q first, then those of all k and v.

    In the file the q, k and v of each head follow each other. options: of the network, with its
    heads.
    """
    arranged = dict(weights)
    widths = [options["channels"] * multiplier for multiplier in options["multipliers"]]
    given, last = options["head_channels"], len(widths) - 1
    of_levels = given if isinstance(given, list) else [given] * len(widths)
    for name, tensor in weights.items():
        if ".qkv." in name:
            side, position = name.split(".")[:2]
            level = {"down": position, "middle_attention": last}.get(side)
            level = last - int(position) if level is None else int(level)
            heads = widths[level] // (of_levels[level] or widths[level])
            parts = tensor.unflatten(0, (heads, 3, -1)).unbind(1)
            arranged[name] = torch.cat([part.flatten(0, 1) for part in parts])
    return arranged
