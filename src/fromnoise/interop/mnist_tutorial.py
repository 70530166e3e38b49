"""Import checkpoints of the MNIST tutorial, `ddpm_checkpoint`: {weights, optimizer, ema}."""

from fromnoise.interop import torch_files

RENAMES = (
    (r"^shallow_conv\.", "stem."),
    (r"^late_conv\.", "out1."),
    (r"^output_conv\.", "out2."),
    (r"\.ResBlock([12])\.gnorm([12])\.", r".residual\1.norm\2."),
    (r"\.ResBlock([12])\.", r".residual\1."),
    (r"\.attention_layer\.proj1\.", ".attention.qkv."),
    (r"\.attention_layer\.proj2\.", ".attention.out."),
    (r"^(Layer\d+)\.conv\.", r"\1.resample."),
    (r"^Layer(\d+)\.", lambda match: f"layers.{int(match[1]) - 1}."),  # counted from 1 there
)
NAMES = {"shallow_conv.weight", "Layer1.ResBlock1.gnorm1.weight", "output_conv.weight"}
EMA_DECAY = 0.9999  # of the program, without warm-up


def mnist_tutorial(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert ddpm_checkpoint: the state dicts of a `UNET`, its optimiser and timm's `ModelEmaV3`.

    Widths, attention and resampling are inferred from the tensors.
    """
    ema, raw = (torch_files.network_in(payload.get(key), NAMES) for key in ("ema", "weights"))
    if ema is None or raw is None:
        return None
    states = payload.get("optimizer", {}).get("state", {}).values()
    step = max((int(state["step"]) for state in states), default=0)  # 0 if unknown
    notes = [
        "the file has no settings, so there are 32x32 pixels, T is 1000, β goes from 1e-4 to 0.02, "
        "and there are 8 heads and 32 groups. Change them with size=, diffusion.T=, "
        "diffusion.schedule.beta_T=, network.heads= and network.groups=",
        "images are in [0, 1] (data_range) and x̂_0 is not clamped (sampling.clamp=false), as in "
        "the program",
    ]
    if step:
        notes.append(
            f"after {step} steps the EMA weights still hold {EMA_DECAY**step:.1%} of the random "
            "initial weights. The raw weights are imported too"
        )
    layers = range(1, 1 + len({name for name in raw if name.endswith(".ResBlock1.conv1.bias")}))
    network = {
        "name": "stacked",
        "channels": [raw[f"Layer{i}.ResBlock1.conv1.weight"].shape[0] for i in layers],
        "attention": [f"Layer{i}.attention_layer.proj1.weight" in raw for i in layers],
        "upscale": [raw[f"Layer{i}.conv.weight"].shape[-1] == 4 for i in layers],
    }
    return torch_files.imported(
        network,
        torch_files.rename(raw, RENAMES),
        notes,
        ema=torch_files.rename(ema, RENAMES),
        step=step,
        clamp=False,
        data_range=[0, 1],
    )
