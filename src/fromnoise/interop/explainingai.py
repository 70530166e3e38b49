"""Import checkpoints of explainingai-code/DDPM-Pytorch: a state dict, `ddpm_ckpt.pth`."""

from fromnoise.interop import torch_files
from fromnoise.interop.structure import LAYER, under

RENAMES = (
    (r"^t_proj\.0\.", "time1."),
    (r"^t_proj\.2\.", "time2."),
    (r"^conv_in\.", "stem."),
    (r"^norm_out\.", "norm."),
    (r"^conv_out\.", "out."),
    (r"^downs\.", "down."),
    (r"^mids\.", "middle."),
    (r"^ups\.", "up."),
    (r"\.(?:down|up)_sample_conv\.", ".resample."),
    (r"\.resnet_conv_first\.(\d+)\.0\.", r".residuals.\1.norm1."),
    (r"\.resnet_conv_first\.(\d+)\.2\.", r".residuals.\1.conv1."),
    (r"\.t_emb_layers\.(\d+)\.1\.", r".residuals.\1.time."),
    (r"\.resnet_conv_second\.(\d+)\.0\.", r".residuals.\1.norm2."),
    (r"\.resnet_conv_second\.(\d+)\.2\.", r".residuals.\1.conv2."),
    (r"\.residual_input_conv\.(\d+)\.", r".residuals.\1.shortcut."),
    (r"\.attention_norms\.(\d+)\.", r".attentions.\1.norm."),
    (r"\.attentions\.(\d+)\.in_proj_", r".attentions.\1.qkv."),
    (r"\.attentions\.(\d+)\.out_proj\.", r".attentions.\1.out."),
)
NAMES = {
    "t_proj.0.weight",
    "downs.0.resnet_conv_first.0.0.weight",
    "mids.0.attention_norms.0.weight",
}
BLOCK = (
    *under("resnet_conv_first.*.{0,2}", LAYER),
    *under("t_emb_layers.*.1", LAYER),
    *under("resnet_conv_second.*.{0,2}", LAYER),
    *under("attention_norms.*", LAYER),
    *under("attentions.*", "in_proj_weight", "in_proj_bias", under("out_proj", LAYER)),
    *under("residual_input_conv.*", LAYER),
)
STRUCTURE = (
    *under("t_proj.{0,2}", LAYER),
    *under("conv_in", LAYER),
    *under("downs.*", BLOCK, under("down_sample_conv", LAYER)),
    *under("mids.*", BLOCK),
    *under("ups.*", BLOCK, under("up_sample_conv", LAYER)),
    *under("norm_out", LAYER),
    *under("conv_out", LAYER),
)
STRUCTURES = (STRUCTURE,)
SIDES = {1: 28, 3: 64}  # by number of channels, as in the program's configurations
OUT_WIDTH = 16  # a constant in the program


def explainingai(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert ddpm_ckpt.pth: the state dict of a `Unet`, without EMA weights."""
    networks = torch_files.find_networks(payload, NAMES)
    if not networks:
        return None
    state = networks.first.weights
    image_channels, out_width = state["conv_in.weight"].shape[1], len(state["norm_out.weight"])
    constant = "a constant in the program"
    notes = []
    if out_width != OUT_WIDTH:
        notes.append(
            f"norm_out has {out_width} channels instead of {OUT_WIDTH}, so the program was modified"
        )
        constant += ", which was modified"
    downs = [f"downs.{i}" for i in range(_count(state, "downs"))]
    mids = [f"mids.{i}" for i in range(_count(state, "mids"))]
    width = {block: state[f"{block}.residual_input_conv.0.weight"].shape for block in downs + mids}
    layers = [_count(state, f"{blocks}.0.t_emb_layers") for blocks in ("downs", "mids", "ups")]
    network = {
        "name": "dense_attention",
        "channels": [len(state["conv_in.weight"]), *(width[block][0] for block in downs)],
        "mid_channels": [width["mids.0"][1], *(width[block][0] for block in mids)],
        "downsample": [f"{block}.down_sample_conv.weight" in state for block in downs],
        "time_dim": len(state["t_proj.0.weight"]),
        "num_layers": [layers[0], layers[1] - 1, layers[2]],
        "out_width": out_width,
    }
    return torch_files.imported(
        network,
        networks,
        lambda weights: torch_files.rename(weights, RENAMES),
        assumed={
            "size": "as in the program's configuration for this number of channels",
            **dict.fromkeys(torch_files.SCHEDULE, "as in the program's configurations"),
            "network.heads": constant,
            "network.groups": constant,
            "sampling.clamp": "in each step; the program does not, before the mean",
        },
        notes=notes,
        side=SIDES.get(image_channels, 64),
        variance="small",
    )


def _count(state: torch_files.Weights, path: str) -> int:
    """Return the number of submodules of `path`."""
    below = path.count(".") + 1
    return len({name.split(".")[below] for name in state if name.startswith(f"{path}.")})
