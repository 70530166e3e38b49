"""Import checkpoints of explainingai-code/DDPM-Pytorch: a state dict, `ddpm_ckpt.pth`."""

from fromnoise.interop import torch_files

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
SIDES = {1: 28, 3: 64}  # by number of channels, as in the program's configurations
OUT_WIDTH = 16  # a constant in the program


def explainingai(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert ddpm_ckpt.pth: the state dict of a `Unet`, without EMA weights."""
    state = torch_files.network_in(payload, NAMES)
    if state is None:
        return None
    image_channels, out_width = state["conv_in.weight"].shape[1], len(state["norm_out.weight"])
    side = SIDES.get(image_channels, 64)
    notes = [
        f"the file has no settings, so there are {side}x{side} pixels, T is 1000 and β goes from "
        "1e-4 to 0.02. Change them with size=, diffusion.T= and diffusion.schedule.beta_T=",
        "there are 4 heads and 8 groups, which are constants in the program",
        "x̂_0 is clamped to [−1, 1] in each step. The program does not clamp it before the mean. "
        "Change this with sampling.clamp=false",
    ]
    if out_width != OUT_WIDTH:
        notes.append(
            f"norm_out has {out_width} channels instead of {OUT_WIDTH}, so the program was "
            "modified. If it has other heads or groups, set network.heads= and network.groups="
        )
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
    weights = torch_files.rename(state, RENAMES)
    return torch_files.imported(network, weights, notes, side=side, variance="small")


def _count(state: torch_files.Weights, path: str) -> int:
    """Return the number of submodules of `path`."""
    below = path.count(".") + 1
    return len({name.split(".")[below] for name in state if name.startswith(f"{path}.")})
