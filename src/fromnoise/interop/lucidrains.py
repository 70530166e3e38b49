"""Checkpoints of the `Trainer` of denoising-diffusion-pytorch 2, `model-N.pt`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop.torch_files import Foreign, Payload, Weights, renamed, without_prefix

RENAMES = (  # in this order: first the layer, then the block or attention, then the level
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
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


def lucidrains(payload: Payload) -> Foreign | None:
    """model-N.pt of its `Trainer`: {step, model, opt, ema, scaler, version}; or `model` alone.

    `model` is the state dict of a `GaussianDiffusion`: its buffers, and the U-Net under `model.`.
    Raises CheckpointError for a U-Net that `linear_attention` cannot be.
    """
    whole = payload.get("model", payload)
    raw = _unet(whole)
    if raw is None:
        return None
    averaged = payload.get("ema") or {}
    prefix = "ema_model."
    ema = _unet({k.removeprefix(prefix): v for k, v in averaged.items() if k.startswith(prefix)})
    buffers = without_prefix(whole, *PREFIXES)
    betas = buffers.get("betas")
    if betas is None:
        raise CheckpointError(
            "this is a U-Net of denoising-diffusion-pytorch without the diffusion that it was "
            "trained in; give the file of its Trainer, or the state_dict() of its GaussianDiffusion"
        )
    _check_supported(raw)
    betas = betas.double()
    prediction = _prediction(buffers.get("loss_weight"), betas)
    learned = raw["final_conv.weight"].shape[0] == 2 * raw["init_conv.weight"].shape[1]
    spec = {
        "network": {"name": "linear_attention", **_options(raw), "learned_variance": learned},
        "diffusion": {
            "T": len(betas),
            "schedule": {"name": "custom", "betas": betas.tolist()},
            "prediction": prediction or "v",
        },
        "sampling": {
            "sampler": {"name": "ddpm", "variance": "learned" if learned else "small"},
            "steps": len(betas),
        },
        "channels": raw["init_conv.weight"].shape[1],
        "size": [32, 32],
    }
    notes = [
        "the file does not tell the image size: 32x32 is assumed; give size=64 for another",
        "the file does not tell the range of the data: [−1, 1] is assumed, as with auto_normalize",
    ]
    if prediction is None:
        notes.append(
            "the file does not tell what the network predicts: v is assumed, the library's "
            "default; give diffusion.prediction=eps or x0 if it was trained with "
            "objective pred_noise or pred_x0"
        )
    step = int(payload.get("step", 0)) if whole is not payload else 0
    return Foreign(spec, None if ema is None else _ours(ema), _ours(raw), step, notes)


def _unet(state: Any) -> dict[str, Tensor] | None:
    """The U-Net's own weights in a state dict, or None where there is no such U-Net."""
    if not isinstance(state, Mapping):
        return None
    names = without_prefix(state, *PREFIXES)
    inside = {k.removeprefix("model."): v for k, v in names.items() if k.startswith("model.")}
    found = inside or names
    needed = {"init_conv.weight", "time_mlp.1.weight", "mid_attn.to_qkv.weight"}
    return found if needed <= found.keys() else None


def _check_supported(state: Weights) -> None:
    its = "this U-Net of denoising-diffusion-pytorch"
    channels, out = state["init_conv.weight"].shape[1], state["final_conv.weight"].shape[0]
    if "time_mlp.0.weights" in state:
        raise CheckpointError(
            f"{its} has random or learned Fourier features for the time, which linear_attention "
            "has not; only sinusoidal embeddings can be imported"
        )
    if any(name.startswith(("classes_", "null_classes")) for name in state):
        raise CheckpointError(
            f"{its} takes classes (classifier_free_guidance.py), by layers that linear_attention "
            "has not; only the plain Unet can be imported"
        )
    if "downs.0.0.block1.norm.g" not in state or "downs.0.2.mem_kv" not in state:
        raise CheckpointError(
            f"{its} is of an older version, with other norms and without learned keys and values; "
            "versions from 2.0 on can be imported"
        )
    if channels == 2 * out:
        raise CheckpointError(
            f"{its} was trained with self-conditioning ({channels} channels in, {out} out); only "
            "self_condition = False can be imported"
        )
    if out not in (channels, 2 * channels):
        raise CheckpointError(
            f"{its} turns {channels} channels into {out}; as many, or twice as many for a learned "
            "variance, can be imported"
        )


def _options(state: Weights) -> dict[str, Any]:
    """The options of `linear_attention` that the shapes tell."""
    dim = state["time_mlp.1.weight"].shape[1]
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("downs."))
    widths = [
        state[f"downs.{i}.3.{'1.' if i < levels - 1 else ''}weight"].shape[0] for i in range(levels)
    ]
    shapes = {_attention_shape(state, f"downs.{i}.2") for i in range(levels)}
    shapes.add(_attention_shape(state, "mid_attn"))
    if len(shapes) > 1:
        raise CheckpointError(
            "this U-Net of denoising-diffusion-pytorch has other attention heads at other levels "
            f"({', '.join(f'{heads} x {d}' for heads, d, _ in sorted(shapes))}); linear_attention "
            "has the same at all of them"
        )
    heads, head_dim, memories = shapes.pop()
    return {
        "dim": dim,
        "init_dim": state["init_conv.weight"].shape[0],
        "multipliers": [width // dim for width in widths],
        "heads": heads,
        "head_dim": head_dim,
        "memories": memories,
        "full_attention_levels": [
            i for i in range(levels) if f"downs.{i}.2.to_out.weight" in state
        ],
        "dropout": 0.0,  # not in the file, and of no account after the training
    }


def _attention_shape(state: Weights, place: str) -> tuple[int, int, int]:
    """Heads, the width of each, and memories."""
    heads = state[f"{place}.mem_kv"].shape[1]
    head_dim = state[f"{place}.to_qkv.weight"].shape[0] // (3 * heads)
    return heads, head_dim, state[f"{place}.mem_kv"].numel() // (2 * heads * head_dim)


def _prediction(loss_weight: Tensor | None, betas: Tensor) -> str | None:
    """What was predicted, told by the weight of the loss at each t; None where it does not tell.

    With c the signal-to-noise ratio, cut off at some γ if min-SNR weighting was on, that weight is
    c/SNR for ε, c for x_0 and c/(SNR + 1) for v.
    """
    if loss_weight is None or len(betas) < 2:
        return None
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    snr = alpha_bar / (1 - alpha_bar)
    weight = loss_weight.double()
    for kind, factor in (("eps", snr), ("x0", torch.ones_like(snr)), ("v", snr + 1)):
        cut = weight * factor
        if torch.allclose(cut, snr.clamp(max=cut.max().item()), rtol=1e-3, atol=0):
            return kind
    return None


def _ours(state: Weights) -> dict[str, Tensor]:
    """The weights under our names, in the shapes of our layers."""
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
    return renamed(shaped, RENAMES)
