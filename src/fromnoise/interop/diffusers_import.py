"""Import a folder of diffusers, which need not be installed: a `UNet2DModel` and its scheduler."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import tables, torch_files
from fromnoise.interop.diffusers import TIME, unet_names
from fromnoise.interop.diffusers_folder import CONFIG, SCHEDULER, SUPPORTED
from fromnoise.interop.embeddings import NO_LABEL, class_columns, time_columns
from fromnoise.networks.ddpm import DDPM

NAMES = {"conv_in.weight", "time_embedding.linear_1.weight", "mid_block.resnets.0.conv1.weight"}
STRUCTURES = ()
TIME_BIAS = "time_embedding.linear_2.bias"
OLD_ATTENTION = (
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned",
}
VARIANCES_OF = {False: "fixed_small", True: "learned_range"}  # without a scheduler
UNET: Mapping[str, Any] = {  # the defaults of diffusers
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": (DOWN[0], *3 * DOWN[1:]),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": (*3 * UP[1:], UP[0]),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,  # only for learned embeddings
}
OF_EMA = (  # further keys in `unet_ema/`
    *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step"),
    "use_ema_warmup",
)
PROCESS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
POSSIBLE: Mapping[str, Sequence[Any]] = {  # the values that have a counterpart here
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0, 1),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "prediction_type": tuple(PREDICTIONS),
    "variance_type": tuple(VARIANCES),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def diffusers(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert the result of `read_folder`. Raises CheckpointError if it has no counterpart here."""
    networks = torch_files.find_networks(payload, NAMES)
    if not networks:
        return None
    if CONFIG not in payload:
        raise CheckpointError(f"has only weights of diffusers. Give their folder, with {CONFIG}.")
    unet = _known(payload[CONFIG], UNET, "the U-Net")
    own = {*UNET, *OF_EMA}
    unknown = {k: v for k, v in payload[CONFIG].items() if k not in own and k[0] != "_"}
    if changed := [f"{key} = {value!r}" for key, value in unknown.items() if value is not None]:
        raise CheckpointError(f"{changed[0]} of the U-Net is unknown here. {SUPPORTED}")
    labels = unet["num_class_embeds"] or 0
    options = _options(unet)
    try:
        with torch.device("meta"):  # names alone
            network = DDPM(image_channels=unet["in_channels"], cond_dim=labels, **options)
    except ValueError as error:
        raise CheckpointError(f"the U-Net has no counterpart here: {error}") from error
    names = unet_names(network)
    assumed, notes = {}, []
    if labels:
        assumed["label_names"] = "the folder has no names of its classes"
        notes.append(NO_LABEL)
    side = unet["sample_size"]
    if side is None:
        assumed["size"] = "the U-Net has no size"
    process, more = _process(payload, options["learned_variance"], assumed, notes)
    model = torch_files.imported(
        {"name": "ddpm", **options},
        networks,
        lambda weights: _convert(weights, names, unet),
        assumed=assumed,
        notes=notes,
        size=side or 32,
        label_names=[f"class_{i}" for i in range(labels)],
        **process,
    )
    model.spec["diffusion"] |= more
    return model


def _known(config: Mapping[str, Any], defaults: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Return the known keys of a configuration. Raises CheckpointError for impossible values."""
    known = {key: config.get(key, default) for key, default in defaults.items()}
    for key, value in known.items():
        if key in POSSIBLE and value not in POSSIBLE[key]:
            possible = " or ".join(str(each) for each in POSSIBLE[key])
            raise CheckpointError(
                f"{key} = {value!r} of {of} has no counterpart here. Supported: {possible}."
            )
    return known


def _options(unet: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `ddpm` for a configuration of `UNet2DModel`."""
    widths, groups, head = (
        unet[key] for key in ("block_out_channels", "norm_num_groups", "attention_head_dim")
    )
    downs, ups = (
        [str(kind).removeprefix("UNetRes") for kind in unet[f"{side}_block_types"]]
        for side in ("down", "up")
    )
    attention = [kind == DOWN[1] for kind in downs]
    scale_shift = unet["resnet_time_scale_shift"] == "scale_shift"
    first, attended = widths[0], [w for w, has in zip(widths, attention, strict=False) if has]
    in_the_middle = unet["attn_norm_num_groups"] or (None if scale_shift else groups)
    mirrored = [UP[DOWN.index(kind)] for kind in reversed(downs) if kind in DOWN]
    channels = unet["in_channels"], unet["out_channels"]
    refused = {
        f"down_block_types = {downs}. Supported: {' and '.join(DOWN)}": set(downs) - set(DOWN),
        f"up_block_types = {ups}. Supported: the mirror of down_block_types": ups != mirrored,
        f"block_out_channels = {list(widths)}. Supported: multiples of the first, one for each "
        "block": len(widths) != len(downs) or any(width % first for width in widths),
        f"time_embedding_dim = {unet['time_embedding_dim']}. Supported: {4 * first}": unet[
            "time_embedding_dim"
        ]
        not in (None, 4 * first),
        f"attention_head_dim = {head}. Supported: divisors of the widths with attention": head
        and any(width % head for width in (*attended, widths[-1])),
        f"attn_norm_num_groups = {in_the_middle}. Supported: norm_num_groups": in_the_middle
        != groups,
        "in_channels and out_channels = {}, {}. Supported: as many, or twice as many for a learned "
        "variance".format(*channels): channels[1] not in (channels[0], 2 * channels[0]),
    }
    for problem, holds in refused.items():
        if holds:
            raise CheckpointError(f"the U-Net has {problem}.")
    return {
        "channels": first,
        "multipliers": [width // first for width in widths],
        "num_res_blocks": unet["layers_per_block"],
        "attention_levels": [level for level, has in enumerate(attention) if has],
        "head_channels": head,
        "dropout": unet["dropout"],
        "groups": groups,
        "embedding": "halves" if unet["freq_shift"] else "interleaved",
        "downsample": "symmetric" if unet["downsample_padding"] else "asymmetric",
        "norm_eps": unet["norm_eps"],
        "scale_shift": scale_shift,
        "learned_variance": channels[1] > channels[0],
    }


def _process(
    payload: torch_files.Payload, learned: bool, assumed: dict[str, str], notes: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arguments of `imported` for a scheduler, and more keys of `diffusion`.

    Adds the keys that are assumed without a scheduler to `assumed`, and settings without a
    counterpart to `notes`.
    """
    config = dict(payload.get(SCHEDULER, {"variance_type": VARIANCES_OF[learned]}))
    if SCHEDULER not in payload:
        keys = (*torch_files.SCHEDULE, "diffusion.prediction", "sampling.clamp")
        assumed |= dict.fromkeys(keys, "the folder has no scheduler")
    if config.get("predict_epsilon") is False:  # until 2023
        config["prediction_type"] = "sample"
    ddim = config.get("_class_name") == "DDIMScheduler"
    if ddim:
        config.pop("variance_type", None)  # of another scheduler
    known = _known(config, PROCESS, "the scheduler")
    variance, T = VARIANCES[known["variance_type"]], known["num_train_timesteps"]
    if learned != (variance == "learned"):
        what = "DDIMScheduler" if ddim else f"DDPMScheduler with {known['variance_type']}"
        raise CheckpointError(
            f"the scheduler is a {what}, but out_channels is {1 + learned} times in_channels. "
            "Supported: twice, with DDPMScheduler and learned_range; else once."
        )
    clamp: bool | str = known["clip_sample"]
    unused = {"steps_offset": 0, "set_alpha_to_one": True}
    if known["thresholding"]:
        clamp = "dynamic" if known["sample_max_value"] > 1 else True
        unused |= {"dynamic_thresholding_ratio": 0.995} if clamp == "dynamic" else {}
    elif clamp:
        unused |= {"clip_sample_range": 1.0}
    left_out = [f"{key} = {known[key]}" for key, usual in unused.items() if known[key] != usual]
    if left_out:
        notes.append(
            f"{', '.join(left_out)} of the scheduler has no counterpart, so samples will differ"
        )
    sampler = {"name": "ddim", "eta": 0.0} if ddim else {"name": "ddpm", "variance": variance}
    sampling = {"sampler": sampler, "steps": min(50, T) if ddim else T, "clamp": clamp}
    sampling["timesteps"] = known["timestep_spacing"]
    process = {
        "betas": T,
        "schedule": _schedule(known),
        "prediction": PREDICTIONS[known["prediction_type"]],
        "sampling": sampling,
    }
    return process, {"zero_terminal_snr": known["rescale_betas_zero_snr"]}


def _schedule(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schedule that gives the scheduler's table in float32."""
    T, first, last = (known[key] for key in ("num_train_timesteps", "beta_start", "beta_end"))
    if (given := known["trained_betas"]) is not None:
        betas = torch.tensor(given, dtype=torch.float64)
        if betas.shape != (T,):
            raise CheckpointError(
                f"trained_betas has {betas.numel()} numbers, but num_train_timesteps is {T}. Set "
                f"it to {betas.numel()} in {SCHEDULER}."
            )
        return tables.read_schedule({"betas": betas})[1]
    if known["beta_schedule"] == "squaredcos_cap_v2":
        return {"name": "cosine"}
    if known["beta_schedule"] == "sigmoid":
        share = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid()
        return {"name": "custom", "betas": (first + share * (last - first)).tolist()}
    name = "linear" if known["beta_schedule"] == "linear" else "quadratic"
    return {"name": name, "beta_1": first, "beta_T": last}


def _convert(
    weights: torch_files.Weights, names: Mapping[str, Sequence[str]], unet: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the weights under the names here. Those without a counterpart keep their names."""
    rest = torch_files.rename(weights, OLD_ATTENTION)
    order = {"cosines_first": unet["flip_sin_to_cos"], "in_turn": not unet["freq_shift"]}
    rest[TIME] = time_columns(rest[TIME], **order)
    if unet["num_class_embeds"]:
        table = rest.pop("class_embedding.weight")
        rest["cond.weight"], rest[TIME_BIAS] = class_columns(table, rest[TIME_BIAS])
    ours = {
        name: torch.cat([rest.pop(each) for each in theirs])
        for name, theirs in names.items()
        if all(each in rest for each in theirs)
    }
    return {**ours, **rest}
