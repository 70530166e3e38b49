"""Write the `ddpm` network as a `UNet2DModel` of diffusers, which need not be installed.

    unet = diffusers.UNet2DModel(**unet_config(network))
    unet.load_state_dict(unet_state_dict(network))

Then `unet(x, t).sample` equals `network(x, t)`, with t ∈ {0..T−1}. With `patch` p the input of the
U-Net is `pixel_unshuffle(x, p)`, C·p² channels, and its output is that of the network, unshuffled.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from fromnoise.interop.torch_files import rename
from fromnoise.networks.ddpm import DDPM, Level
from fromnoise.networks.layers import ResidualBlock

RENAMES = (  # in this order: the position of a layer, then its name
    (r"^time([12])\.", r"time_embedding.linear_\1."),
    (r"^stem\.", "conv_in."),
    (r"^norm\.", "conv_norm_out."),
    (r"^out\.", "conv_out."),
    (r"^middle_attention\.", "mid_block.attentions.0."),
    (r"^middle1\.", "mid_block.resnets.0."),
    (r"^middle2\.", "mid_block.resnets.1."),
    (r"^(down|up)\.(\d+)\.blocks\.", r"\1_blocks.\2.resnets."),
    (r"^(down|up)\.(\d+)\.attentions\.", r"\1_blocks.\2.attentions."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"(\.resnets\.\d+)\.time\.", r"\1.time_emb_proj."),
    (r"(\.resnets\.\d+)\.shortcut\.", r"\1.conv_shortcut."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.out\.", r"\1.to_out.0."),
)
TIME = "time_embedding.linear_1.weight"  # its columns are sines and cosines of t


def unet_config(network: DDPM) -> dict[str, Any]:
    """Return the arguments of `diffusers.UNet2DModel` for the same network.

    With the paper's values they equal those of google/ddpm-cifar10-32, except for dropout.
    Pipelines also need `sample_size`, the side of the images, and the prediction, neither of which
    the network contains. diffusers' schedulers have `prediction_type` epsilon, sample and
    v_prediction for eps, x0 and v, but none for the kinds flow and edm over these x_t, so its
    pipelines cannot sample from a model that predicts one of these.

    Raises ValueError if `UNet2DModel` does not support the network: conditioning,
    self-conditioning, other numbers of blocks at the levels, or a first multiplier other than 1.
    """
    _check_supported(network)
    levels: Any = network.down  # a ModuleList has no element type
    first = levels[0].blocks[0]
    heads = _heads(network)
    attends = [len(level.attentions) > 0 for level in levels]
    asymmetric = len(levels) > 1 and isinstance(levels[0].resample.pad, nn.ZeroPad2d)
    return {
        "in_channels": network.c_in,
        "out_channels": network.c_out,
        "block_out_channels": [level.blocks[0].conv1.out_channels for level in levels],
        "layers_per_block": len(levels[0].blocks),
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "attention_head_dim": heads[0],  # None: one head, as wide as the level
        "downsample_padding": 0 if asymmetric else 1,  # 0 pads right and below
        "dropout": first.dropout.p,
        "norm_num_groups": network.norm.num_groups,
        "attn_norm_num_groups": network.norm.num_groups,  # for the middle block
        "norm_eps": network.norm.eps,
        "resnet_time_scale_shift": "scale_shift" if first.scale_shift else "default",
        "act_fn": "silu",
        "time_embedding_type": "positional",
        "flip_sin_to_cos": False,  # sines first
        # 10000^(−i/(d/2−1)), or without the 1; the order of the columns is in the weights
        "freq_shift": 1 if network.layout == "halves" else 0,
    }


def unet_state_dict(network: DDPM) -> dict[str, Tensor]:
    """Return the network's weights under the names of `diffusers.UNet2DModel`.

    They share memory, except for the first layer of the time if its columns are in another order.
    Raises ValueError as `unet_config`.
    """
    _check_supported(network)
    state: dict[str, Tensor] = {}
    ours = network.state_dict()
    for name, theirs in unet_names(network).items():
        state |= zip(theirs, ours[name].chunk(len(theirs)), strict=True)
    if network.layout == "interleaved":
        weight = state[TIME]
        state[TIME] = torch.cat([weight[:, ::2], weight[:, 1::2]], dim=1)  # sines, then cosines
    return state


def unet_names(network: DDPM) -> dict[str, list[str]]:
    """Return the names of each weight in `diffusers.UNet2DModel`: three for q, k and v in one."""
    there = rename({name: name for name in network.state_dict()}, RENAMES)
    return {
        ours: [theirs.replace(".qkv.", f".to_{letter}.") for letter in "qkv"]
        if ".qkv." in theirs
        else [theirs]
        for theirs, ours in there.items()
    }


def _heads(network: DDPM) -> list[int | None]:
    """Return the distinct widths of a head in the levels with attention and in the middle."""
    levels = list(cast(Iterable[Level], network.down))
    with_attention = [*(len(level.attentions) > 0 for level in levels[:-1]), True]
    pairs = zip(network.head_channels, with_attention, strict=True)
    return list(dict.fromkeys(head for head, has in pairs if has))


def _check_supported(network: DDPM) -> None:
    levels = list(cast(Iterable[Level], network.down))
    depths, heads = [len(level.blocks) for level in levels], _heads(network)
    reasons = {
        f"head_channels is {network.head_channels}, not one number": len(heads) > 1,
        "downsample is residual": isinstance(levels[0].resample, ResidualBlock),
        f"its condition has {network.cond_dim} columns": network.cond_dim > 0,
        "it has self_conditioning": network.self_conditioning,
        f"num_res_blocks is {depths}, not one number": len(set(depths)) > 1,
        "multipliers do not start with 1": network.norm.num_channels != network.width,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(
            f"UNet2DModel of diffusers does not support this network: {', '.join(found)}"
        )
