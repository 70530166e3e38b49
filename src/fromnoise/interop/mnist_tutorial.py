"""Import checkpoints of the MNIST tutorial, `ddpm_checkpoint`: {weights, optimizer, ema}."""

from collections.abc import Mapping

from fromnoise.interop import torch_files
from fromnoise.interop.structure import LAYER, under

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
STRUCTURE = (  # of the published six layers
    *under("shallow_conv", LAYER),
    *under("Layer{1,2,3,4,5,6}.ResBlock{1,2}.{gnorm1,gnorm2,conv1,conv2}", LAYER),
    *under("Layer{1,2,3,4,5,6}.conv", LAYER),
    *under("Layer{2,6}.attention_layer.{proj1,proj2}", LAYER),
    *under("late_conv", LAYER),
    *under("output_conv", LAYER),
)
STRUCTURES = (STRUCTURE,)
EMA_DECAY = 0.9999  # of the program, without warm-up


def mnist_tutorial(payload: torch_files.Payload) -> torch_files.ImportedModel | None:
    """Convert ddpm_checkpoint: the state dicts of a `UNET`, its optimiser and timm's `ModelEmaV3`.

    Widths, attention and resampling are inferred from the tensors.
    """
    networks = torch_files.find_networks(payload, NAMES)
    if not networks:
        return None
    optimizer = payload.get("optimizer")
    states = optimizer.get("state", {}).values() if isinstance(optimizer, Mapping) else ()
    steps = [int(state.get("step", 0)) for state in states]
    step = max([torch_files.step_of(payload), *steps])
    notes = []
    if step and networks.ema:
        notes.append(
            f"after {step} steps the EMA weights still contain {EMA_DECAY**step:.1%} of the random "
            "initial weights, if the decay was that of the program"
        )
    state = networks.first.weights
    layers = range(1, 1 + len({name for name in state if name.endswith(".ResBlock1.conv1.bias")}))
    network = {
        "name": "stacked",
        "channels": [state[f"Layer{i}.ResBlock1.conv1.weight"].shape[0] for i in layers],
        "attention": [f"Layer{i}.attention_layer.proj1.weight" in state for i in layers],
        "upscale": [state[f"Layer{i}.conv.weight"].shape[-1] == 4 for i in layers],
    }
    return torch_files.imported(
        network,
        networks,
        lambda weights: torch_files.rename(weights, RENAMES),
        assumed=dict.fromkeys(
            (
                "size",
                *torch_files.SCHEDULE,
                "network.heads",
                "network.groups",
                "data_range",
                "sampling.clamp",
            ),
            "as in the program",
        ),
        notes=notes,
        step=step,
        clamp=False,
        data_range=[0, 1],
    )
