"""Import checkpoints of the `Trainer` of denoising-diffusion-pytorch, `model-N.pt`.

Of version 2, and of 14 and 15 June 2022. Other releases have other layers.
"""

from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import tables, torch_files
from fromnoise.interop.structure import LAYER, under

RENAMES = (  # in this order: layer, block or attention, level
    (r"\.fn\.fn\.", "."),
    (r"\.fn\.norm\.", ".norm."),
    (r"\.block([12])\.proj\.", r".conv\1."),
    (r"\.block([12])\.norm\.", r".norm\1."),
    (r"\.mlp\.1\.", ".time."),
    (r"\.res_conv\.", ".shortcut."),
    (r"\.mem_kv$", ".memory"),
    (r"\.to_qkv\.", ".qkv."),
    (r"\.to_out\.1\.", ".out_norm."),
    (r"\.to_out\.(0\.)?", ".out."),
    (r"^downs\.(\d+)\.3\.(1\.)?", r"down.\1.resample."),
    (r"^ups\.(\d+)\.3\.", r"up.\1.resample."),
    (r"^(down|up)s\.(\d+)\.0\.", r"\1.\2.block1."),
    (r"^(down|up)s\.(\d+)\.1\.", r"\1.\2.block2."),
    (r"^(down|up)s\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"^mid_block([12])\.", r"middle\1."),
    (r"^mid_attn\.", "middle_attention."),
    (r"^final_res_block\.", "last."),
    (r"^final_conv\.0\.", "last."),
    (r"^final_conv\.(1\.)?", "out."),
    (r"^init_conv\.", "stem."),
    (r"^time_mlp\.1\.", "time1."),
    (r"^time_mlp\.3\.", "time2."),
)
GAINS = {  # the leaves of a norm: those of version 2, and of June 2022
    False: ((r"\.g$", ".gain"),),
    True: ((r"\.g$", ".weight"), (r"\.b$", ".bias")),
}
HEADS = 4  # of June 2022, a constant there
UNET = "this U-Net of denoising-diffusion-pytorch"
RESIDUAL = {  # of version 2, and of June 2022
    version: (
        *under("mlp.1", LAYER),
        *under("block{1,2}", under("proj", LAYER), under("norm", norm)),
        *under("res_conv", LAYER),
    )
    for version, norm in ((2, ("g",)), (2022, LAYER))
}
STRUCTURE = (
    *under("init_conv", LAYER),
    *under("time_mlp.{1,3}", LAYER),
    *under("{downs,ups}.*.{0,1}", RESIDUAL[2]),
    *under("{downs,ups}.*.2", "mem_kv", "norm.g", "to_qkv.weight", under("to_out.0", LAYER)),
    *under("{downs,ups}.*.2.to_out", "1.g", LAYER),  # without a number for full attention
    *under("{downs,ups}.*.3", under("1", LAYER), LAYER),
    *under("mid_block1", RESIDUAL[2]),
    *under("mid_attn", "mem_kv", "norm.g", "to_qkv.weight", under("to_out", LAYER)),
    *under("mid_block2", RESIDUAL[2]),
    *under("final_res_block", RESIDUAL[2]),
    *under("final_conv", LAYER),
)
STRUCTURE_OF_2022 = (
    *under("init_conv", LAYER),
    *under("time_mlp.{1,3}", LAYER),
    *under("{downs,ups}.*.{0,1}", RESIDUAL[2022]),
    *under("{downs,ups}.*.2.fn.fn", "to_qkv.weight", under("to_out.0", LAYER)),
    *under("{downs,ups}.*.2.fn", "fn.to_out.1.g", "fn.to_out.1.b", "norm.g", "norm.b"),
    *under("{downs,ups}.*.3", LAYER),
    *under("mid_block1", RESIDUAL[2022]),
    *under("mid_attn.fn", "fn.to_qkv.weight", under("fn.to_out", LAYER), "norm.g", "norm.b"),
    *under("mid_block2", RESIDUAL[2022]),
    *under("final_conv.0", RESIDUAL[2022]),
    *under("final_conv.1", LAYER),
)
STRUCTURES = (STRUCTURE, STRUCTURE_OF_2022)
NAMES = {"init_conv.weight", "time_mlp.1.weight", "time_mlp.3.weight"}


def lucidrains(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert model-N.pt: {step, model, opt, ema, scaler, version}, or only its `model`.

    `model` is the state dict of a `GaussianDiffusion`: its buffers, and the U-Net under `model.`,
    in June 2022 under `denoise_fn.`. Raises CheckpointError if `linear_attention` does not support
    the U-Net.
    """
    networks = torch_files.find_networks(payload, NAMES)
    if not networks:
        return None
    raw, beside, _ = networks.first
    of_2022 = _is_of_2022(raw)
    _check_supported(raw, beside, of_2022)
    T, schedule, betas = tables.read_schedule(beside)
    network = _network_of_2022(raw) if of_2022 else _network(raw)
    assumed = {
        "size": "the file has no image size",
        "data_range": "the file has no data range; its images were normalised by default",
    }
    prediction = None if of_2022 else _prediction(beside.get("loss_weight"), betas)
    more = {}
    if prediction is None:
        prediction = "eps" if of_2022 else "v"
        assumed["diffusion.prediction"] = "the file has no objective; this was the default"
    if of_2022:
        assumed["diffusion.loss"] = "the file has no loss; this was the default"
        assumed["network.heads"] = "a constant of that release"
        weighting = _p2(beside.get("p2_loss_weight"), betas)
        if weighting is None:
            assumed["diffusion.weighting"] = "the weights of the loss in the file are not p2"
        more = {"loss": "l1", **(weighting or {})}
    model = torch_files.imported(
        network,
        networks,
        _convert,
        assumed=assumed,
        step=torch_files.step_of(payload),
        betas=T,
        schedule=schedule,
        variance="learned" if network["learned_variance"] else "small",
        prediction=prediction,
    )
    model.spec["diffusion"] |= more
    return model


def _is_of_2022(state: torch_files.Weights) -> bool:
    """Return whether these are the layers of 24 May to 15 June 2022."""
    return "mid_attn.fn.norm.b" in state


def _check_supported(
    state: torch_files.Weights, beside: torch_files.Weights, of_2022: bool
) -> None:
    if tell := _other_release(state, of_2022):
        raise CheckpointError(
            f"{UNET} has the layers of another version: {tell}. Import a file of version 2.0 or "
            "later, or of 24 May to 15 June 2022."
        )
    channels = state["init_conv.weight"].shape[1]
    out = state["final_conv.1.weight" if of_2022 else "final_conv.weight"].shape[0]
    conditional = any(name.startswith(("classes_", "null_classes")) for name in state)
    refused = {
        "has no diffusion settings. Give the file of its Trainer, or the state_dict() of its "
        "GaussianDiffusion.": beside.get("betas") is None,
        "has Fourier features for the timestep. Import a U-Net with sinusoidal "
        "embeddings.": "time_mlp.0.weights" in state,
        "is conditional (classifier_free_guidance.py). Import an unconditional Unet.": conditional,
        f"has self-conditioning ({channels} channels in, {out} out). Import one with "
        "self_condition = False.": channels == 2 * out,
        f"has {channels} input and {out} output channels. Import one with as many output channels, "
        "or twice as many for a learned variance.": out not in (channels, 2 * channels),
    }
    for problem, holds in refused.items():
        if holds:
            raise CheckpointError(f"{UNET} {problem}")


def _other_release(state: torch_files.Weights, of_2022: bool) -> str | None:
    """Return the difference from the supported U-Nets with the dates of its releases, or None."""
    last = state.get("final_conv.0.block1.proj.weight")
    tells = {
        "ConvNeXt blocks, of January to May 2022": "downs.0.0.ds_conv.weight" in state,
        "blocks that add the time, before 24 May 2022": "downs.0.0.block1.block.0.weight" in state,
        "a time without sinusoids, of June 2022": state["time_mlp.1.weight"].shape[1] == 1,
        "two skips per level beside GroupNorm, of 27 June to 28 July 2022": of_2022
        and "ups.0.3.1.weight" in state,
        "a last block with the time, of 17 to 26 June 2022": of_2022
        and "final_res_block.block1.proj.weight" in state,
        "the stem joined to the last block, of 16 June 2022": of_2022
        and last is not None
        and last.shape[1] == 2 * last.shape[0],
        "LayerNorm without bias, of 29 July 2022 to 2023": "mid_attn.fn.norm.g" in state
        and not of_2022,
        "no RMSNorm in its blocks": "downs.0.0.block1.norm.g" not in state and not of_2022,
        "no memory keys and values, before October 2023": "downs.0.2.mem_kv" not in state
        and not of_2022,
    }
    return next((tell for tell, holds in tells.items() if holds), None)


def _network_of_2022(state: torch_files.Weights) -> dict[str, Any]:
    """Return the options of `linear_attention` for a U-Net of June 2022."""
    dim = state["time_mlp.1.weight"].shape[1]
    downs, ups = (
        1
        + max((int(name.split(".")[1]) for name in state if name.startswith(f"{way}.")), default=-1)
        for way in ("downs", "ups")
    )
    widths = [state[f"downs.{i}.1.block1.proj.weight"].shape[0] for i in range(downs)]
    out = len(state["final_conv.1.weight"])
    return {
        "name": "linear_attention",
        "form": "june2022_skip" if ups == downs else "june2022",
        "dim": dim,
        "init_dim": state["init_conv.weight"].shape[0],
        "multipliers": [width // dim for width in widths],
        "heads": HEADS,
        "head_dim": state["mid_attn.fn.fn.to_qkv.weight"].shape[0] // (3 * HEADS),
        "learned_variance": out > state["init_conv.weight"].shape[1],
    }


def _p2(weight: Tensor | None, betas: Tensor) -> dict[str, Any] | None:
    """Return the weighting (1 + SNR)^−γ of a table, {} for γ = 0, or None for another one."""
    if weight is None or tables.same(weight, torch.ones_like(betas)):
        return {}
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    snr = alpha_bar / (1 - alpha_bar)
    gamma = round((-weight.double().log() / snr.log1p())[: len(betas) // 2].median().item(), 2)
    rtol = 1e-3 + 2 * tables.tolerance(weight)[0]
    if not torch.allclose(weight.double(), (1 + snr) ** -gamma, rtol=rtol, atol=rtol):
        return None
    return {"weighting": {"name": "p2", "gamma": gamma, "k": 1.0}}


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
    rtol, atol = tables.tolerance(loss_weight)
    for kind, factor in (("eps", snr), ("x0", torch.ones_like(snr)), ("v", snr + 1)):
        clamped = snr.clamp(max=(weight * factor).max().item())
        if torch.allclose(weight, clamped / factor, rtol=1e-3 + 2 * rtol, atol=atol):
            return kind
    return None


def _convert(state: torch_files.Weights) -> dict[str, Tensor]:
    """Return the weights under the names and in the shapes here."""
    shaped = {}
    for name, tensor in state.items():
        place, _, last = name.rpartition(".")
        if last in ("g", "b"):
            tensor = tensor.flatten()
        elif last == "mem_kv" and f"{place}.to_out.1.g" in state:
            tensor = tensor.mT  # of linear attention: (2,heads,d,memories)
        elif name.endswith((".to_qkv.weight", ".to_out.0.weight", ".to_out.weight")):
            tensor = tensor.flatten(1)  # a 1×1 convolution
        elif name.startswith("downs.") and name.endswith(".3.1.weight"):
            tensor = tensor.unflatten(1, (-1, 2, 2))[..., 0, 0]  # space-to-depth and 1×1
        shaped[name] = tensor
    return torch_files.rename(shaped, (*RENAMES, *GAINS[_is_of_2022(state)]))
