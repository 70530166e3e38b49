"""Import checkpoints of the `Trainer` of denoising-diffusion-pytorch 2, `model-N.pt`."""

from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import torch_files

RENAMES = (  # in this order: layer, block or attention, level
    (r"\.block([12])\.proj\.", r".conv\1."),
    (r"\.block([12])\.norm\.g$", r".norm\1.gain"),
    (r"\.mlp\.1\.", ".time."),
    (r"\.res_conv\.", ".shortcut."),
    (r"\.norm\.g$", ".norm.gain"),
    (r"\.mem_kv$", ".memory"),
    (r"\.to_qkv\.", ".qkv."),
    (r"\.to_out\.1\.g$", ".out_norm.gain"),
    (r"\.to_out\.(0\.)?", ".out."),
    (r"^downs\.(\d+)\.3\.(1\.)?", r"down.\1.resample."),
    (r"^ups\.(\d+)\.3\.", r"up.\1.resample."),
    (r"^(down|up)s\.(\d+)\.0\.", r"\1.\2.block1."),
    (r"^(down|up)s\.(\d+)\.1\.", r"\1.\2.block2."),
    (r"^(down|up)s\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"^mid_block([12])\.", r"middle\1."),
    (r"^mid_attn\.", "middle_attention."),
    (r"^final_res_block\.", "last."),
    (r"^final_conv\.", "out."),
    (r"^init_conv\.", "stem."),
    (r"^time_mlp\.1\.", "time1."),
    (r"^time_mlp\.3\.", "time2."),
)
UNET = "this U-Net of denoising-diffusion-pytorch"
NAMES = {"init_conv.weight", "time_mlp.1.weight", "mid_attn.to_qkv.weight"}


def lucidrains(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert model-N.pt: {step, model, opt, ema, scaler, version}, or only its `model`.

    `model` is the state dict of a `GaussianDiffusion`: its buffers, and the U-Net under `model.`.
    Raises CheckpointError if `linear_attention` does not support the U-Net.
    """
    diffusion = payload.get("model", payload)
    raw = torch_files.network_in(diffusion, NAMES, inside="model.")
    if raw is None:
        return None
    ema = torch_files.network_in(
        torch_files.select(payload.get("ema") or {}, "ema_model."), NAMES, inside="model."
    )
    buffers = torch_files.strip_prefixes(diffusion, "module.", "_orig_mod.")
    _check_supported(raw, buffers)
    betas = buffers["betas"].double()
    prediction = _prediction(buffers.get("loss_weight"), betas)
    network = _network(raw)
    notes = [
        "the file has no image size, so it is 32x32. Change it with size=",
        "the file has no data range, so it is [−1, 1], as with auto_normalize",
    ]
    if prediction is None:
        notes.append(
            "the file has no prediction type, so it is v, the default. For the objectives "
            "pred_noise and pred_x0 set diffusion.prediction=eps or x0"
        )
    return torch_files.imported(
        network,
        _convert(raw),
        notes,
        ema=None if ema is None else _convert(ema),
        step=int(payload.get("step", 0)),
        betas=betas,
        variance="learned" if network["learned_variance"] else "small",
        prediction=prediction or "v",
    )


def _check_supported(state: torch_files.Weights, buffers: torch_files.Weights) -> None:
    channels, out = state["init_conv.weight"].shape[1], state["final_conv.weight"].shape[0]
    conditional = any(name.startswith(("classes_", "null_classes")) for name in state)
    known = {"downs.0.0.block1.norm.g", "downs.0.2.mem_kv"} <= state.keys()
    refused = {
        "has no diffusion settings. Give the file of its Trainer, or the state_dict() of its "
        "GaussianDiffusion.": buffers.get("betas") is None,
        "has Fourier features for the timestep. Import a U-Net with sinusoidal "
        "embeddings.": "time_mlp.0.weights" in state,
        "is conditional (classifier_free_guidance.py). Import an unconditional Unet.": conditional,
        "has other layers, of an older version. Import a file of version 2.0 or later.": not known,
        f"has self-conditioning ({channels} channels in, {out} out). Import one with "
        "self_condition = False.": channels == 2 * out,
        f"has {channels} input and {out} output channels. Import one with as many output channels, "
        "or twice as many for a learned variance.": out not in (channels, 2 * channels),
    }
    for problem, holds in refused.items():
        if holds:
            raise CheckpointError(f"{UNET} {problem}")


def _network(state: torch_files.Weights) -> dict[str, Any]:
    """Return the options of `linear_attention`, inferred from the shapes."""
    dim = state["time_mlp.1.weight"].shape[1]
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("downs."))
    widths = [
        state[f"downs.{i}.3.{'1.' if i < levels - 1 else ''}weight"].shape[0] for i in range(levels)
    ]
    shapes = set()  # (heads, their width, memories)
    for place in ("mid_attn", *(f"downs.{i}.2" for i in range(levels))):
        memory, qkv = state[f"{place}.mem_kv"], state[f"{place}.to_qkv.weight"]
        heads, head_dim = memory.shape[1], qkv.shape[0] // (3 * memory.shape[1])
        shapes.add((heads, head_dim, memory.numel() // (2 * heads * head_dim)))
    if len(shapes) > 1:
        raise CheckpointError(
            f"{UNET} has different attention heads at its levels "
            f"({', '.join(f'{heads} x {d}' for heads, d, _ in sorted(shapes))}). Import one with "
            "the same heads at all levels."
        )
    heads, head_dim, memories = shapes.pop()
    return {
        "name": "linear_attention",
        "dim": dim,
        "init_dim": state["init_conv.weight"].shape[0],
        "multipliers": [width // dim for width in widths],
        "heads": heads,
        "head_dim": head_dim,
        "memories": memories,
        "full_attention_levels": [
            i for i in range(levels) if f"downs.{i}.2.to_out.weight" in state
        ],
        "learned_variance": len(state["final_conv.weight"]) > state["init_conv.weight"].shape[1],
    }


def _prediction(loss_weight: Tensor | None, betas: Tensor) -> str | None:
    """Return the prediction type, inferred from the loss weight of each t, or None.

    With c the signal-to-noise ratio, clamped at some γ for min-SNR weighting, that weight is
    c/SNR for ε, c for x_0 and c/(SNR + 1) for v.
    """
    if loss_weight is None or len(betas) < 2:
        return None
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    snr = alpha_bar / (1 - alpha_bar)
    weight = loss_weight.double()
    for kind, factor in (("eps", snr), ("x0", torch.ones_like(snr)), ("v", snr + 1)):
        clamped = weight * factor
        if torch.allclose(clamped, snr.clamp(max=clamped.max().item()), rtol=1e-3, atol=0):
            return kind
    return None


def _convert(state: torch_files.Weights) -> dict[str, Tensor]:
    """Return the weights under the names and in the shapes here."""
    shaped = {}
    for name, tensor in state.items():
        place, _, last = name.rpartition(".")
        if last == "g":
            tensor = tensor.flatten()
        elif last == "mem_kv" and f"{place}.to_out.1.g" in state:
            tensor = tensor.mT  # of linear attention: (2,heads,d,memories)
        elif name.endswith((".to_qkv.weight", ".to_out.0.weight", ".to_out.weight")):
            tensor = tensor.flatten(1)  # a 1×1 convolution
        elif name.startswith("downs.") and name.endswith(".3.1.weight"):
            tensor = tensor.unflatten(1, (-1, 2, 2))[..., 0, 0]  # space-to-depth and a 1×1 one
        shaped[name] = tensor
    return torch_files.rename(shaped, RENAMES)
