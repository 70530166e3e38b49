"""Checkpoints of the MNIST tutorial, `ddpm_checkpoint`: {weights, optimizer, ema}."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fromnoise.interop.torch_files import Foreign, Payload, Weights, renamed, without_prefix

RENAMES = (
    (r"^shallow_conv\.", "stem."),
    (r"^late_conv\.", "out1."),
    (r"^output_conv\.", "out2."),
    (r"\.ResBlock([12])\.gnorm([12])\.", r".residual\1.norm\2."),
    (r"\.ResBlock([12])\.", r".residual\1."),
    (r"\.attention_layer\.proj1\.", ".attention.qkv."),
    (r"\.attention_layer\.proj2\.", ".attention.out."),
    (r"^(Layer\d+)\.conv\.", r"\1.resample."),
)
NAMES = {"shallow_conv.weight", "Layer1.ResBlock1.gnorm1.weight", "output_conv.weight"}
EMA_DECAY = 0.9999  # there without a warm-up


def mnist_tutorial(payload: Payload) -> Foreign | None:
    """ddpm_checkpoint: the state dicts of a `UNET`, of its optimiser and of timm's `ModelEmaV3`.

    Widths, attention and resampling are read from the tensors.
    """
    if not {"weights", "ema"} <= payload.keys():
        return None
    ema, raw = (_clean(payload[key]) for key in ("ema", "weights"))
    if not (ema.keys() >= NAMES and raw.keys() >= NAMES):
        return None
    spec = {
        "network": {"name": "stacked", **_options(raw)},
        "diffusion": {
            "T": 1000,
            "schedule": {"name": "linear", "beta_1": 1e-4, "beta_T": 0.02},
            "prediction": "eps",
        },
        "sampling": {
            "sampler": {"name": "ddpm", "variance": "large"},
            "steps": 1000,
            "clamp": False,
        },
        "channels": raw["shallow_conv.weight"].shape[1],
        "size": [32, 32],
        "data_range": [0, 1],
    }
    step = _step(payload.get("optimizer", {}))
    notes = [
        "assumed, for the weights do not tell: 32x32 pixels, T = 1000, β from 1e-4 to 0.02, 8 "
        "heads, 32 groups; change them with size=, diffusion.T=, diffusion.schedule.beta_T=, "
        "network.heads= and network.groups=",
        "that program trains on images in [0, 1] (data_range) and samples without clamping x̂_0 "
        "(sampling.clamp=false), as is done here",
    ]
    if step:
        notes.append(
            f"after {step} steps its average still holds {EMA_DECAY**step:.1%} of the random "
            "start; the raw weights are imported too"
        )
    return Foreign(spec, _ours(ema), _ours(raw), step, notes)


def _clean(state: Any) -> dict[str, Tensor]:
    """Without the prefix of ModelEmaV3 and of DataParallel."""
    return without_prefix(state, "module.") if isinstance(state, Mapping) else {}


def _options(state: Weights) -> dict[str, Any]:
    layers = range(1, 1 + len({name for name in state if name.endswith(".ResBlock1.conv1.bias")}))
    return {
        "channels": [state[f"Layer{i}.ResBlock1.conv1.weight"].shape[0] for i in layers],
        "attention": [f"Layer{i}.attention_layer.proj1.weight" in state for i in layers],
        "upscale": [state[f"Layer{i}.conv.weight"].shape[-1] == 4 for i in layers],
        "groups": 32,
        "dropout": 0.1,
        "heads": 8,
        "time": "raw",
        "attention_form": "plain",
    }


def _ours(state: Weights) -> dict[str, Tensor]:
    """The weights under our names; there the layers count from 1."""
    return {
        re.sub(r"^Layer(\d+)\.", lambda found: f"layers.{int(found[1]) - 1}.", name): tensor
        for name, tensor in renamed(state, RENAMES).items()
    }


def _step(optimizer: Mapping[str, Any]) -> int:
    """How many steps the optimiser has made; 0 where it does not say."""
    return max((int(of["step"]) for of in optimizer.get("state", {}).values()), default=0)
