"""Export a model for other programs: `fromnoise export`."""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch

from fromnoise import checkpoints
from fromnoise.config.errors import ConfigError, unknown_name
from fromnoise.interop.diffusers import unet_config, unet_state_dict
from fromnoise.interop.diffusers_folder import CONFIG, INDEX, SCHEDULER, WEIGHTS
from fromnoise.interop.diffusers_import import PREDICTIONS
from fromnoise.model.model import Model, build_network, load
from fromnoise.model.spec import Weights
from fromnoise.networks.ddpm import DDPM
from fromnoise.pictures import SHOWN_WHOLE

FORMATS = ("diffusers", "safetensors")
PREDICTION_TYPES = {ours: theirs for theirs, ours in PREDICTIONS.items()}
NO_CAP = 1e6  # of a dynamic threshold


def export_model(
    path: str | Path, out: str | Path, *, format: str, weights: Weights | None = None
) -> Path:
    """Write a model in the format of another program, and return its path.

    path, weights: as in `load`. format: `diffusers`, a folder for its pipelines; or `safetensors`,
    one file that also has the specification of the model, for `load` here.
    Raises ConfigError if `out` exists or the format has no counterpart of the model, FolderNotEmpty
    and DiskFull, before anything is written.
    """
    out = Path(out).absolute()
    if format not in FORMATS:
        raise ConfigError(f"--format {unknown_name(format, FORMATS)}")
    if format == "diffusers":
        checkpoints.require_empty_folder(out)
        export_to_diffusers(load(path, weights=weights, device="cpu"), out)
        return out
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out.name} does not end in .safetensors. Add this ending.")
    if out.exists():
        raise ConfigError(f"{out} exists. Give --out a new name.")
    checkpoints.require_room(out)
    return load(path, weights=weights, device="cpu").save(out)


def export_to_diffusers(model: Model, out: Path) -> None:
    """Write a folder for the pipelines of diffusers, which need not be installed.

    It has a `UNet2DModel`, a `DDIMScheduler` or `DDPMScheduler` with the β of the model, and a
    model card. The columns of an augmentation, which are zero in sampling, are left out. With
    `patch` p the pipeline returns the pixels of a patch as p² channels, and the card has the code
    to shuffle them back. Raises ConfigError if diffusers has no counterpart of the model.
    """
    network = _without_augmentation(model)
    unet = {"_class_name": "UNet2DModel", **unet_config(network)}
    height, width = (side // network.patch for side in model.spec.size)
    unet["sample_size"] = height if height == width else [height, width]
    scheduler = scheduler_config(model)
    kind = scheduler["_class_name"]
    pipeline = kind.replace("Scheduler", "Pipeline")
    parts = {"scheduler": ["diffusers", kind], "unet": ["diffusers", "UNet2DModel"]}
    content = checkpoints.TensorFile(unet_state_dict(network), {"format": "pt"})
    checkpoints.require_empty_folder(out, checkpoints.size_of(content))
    with checkpoints.atomic_folder(out) as writing:
        for name, config in {
            INDEX: {"_class_name": pipeline, **parts},
            f"unet/{CONFIG}": unet,
            f"scheduler/{SCHEDULER}": scheduler,
        }.items():
            (writing / name).parent.mkdir(exist_ok=True)
            (writing / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        checkpoints.write_tensors(writing / "unet" / f"{WEIGHTS}.safetensors", content)
        card = model_card(model, out.name, pipeline, network)
        (writing / "README.md").write_text(card, encoding="utf-8")


def _without_augmentation(model: Model) -> DDPM:
    """Return the network without the condition of an augmentation, or raise ConfigError."""
    spec = model.spec
    prediction, labels = spec.diffusion.prediction.name, len(spec.label_names)
    reasons = {
        f"network {spec.network.name}": spec.network.name != "ddpm",
        f"{labels} label{'s' * (labels > 1)} ({', '.join(spec.label_names[:3])})": labels > 0,
        f"prediction {prediction}": prediction not in PREDICTION_TYPES,
        "variance_reading log": spec.network.options.get("learned_variance")
        and spec.diffusion.variance_reading == "log",
        f"offset_noise {spec.diffusion.offset_noise:g}": spec.diffusion.offset_noise > 0,
        f"data_range {list(spec.data_range)}": spec.data_range != (-1, 1),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if not found:
        try:
            with torch.device("meta"):
                plain = build_network(spec.model_copy(update={"augment_columns": ()}))
            network = cast(DDPM, plain)
            unet_config(network)
        except ValueError as error:
            found = [str(error).partition("network: ")[2] or str(error)]
        else:
            state = model.denoiser.network.state_dict()
            state = {name: state[name] for name in network.state_dict()}
            network.load_state_dict(state, assign=True)
            return network
    raise ConfigError(
        f"diffusers has no counterpart of this model: {', '.join(found)}. Export it with --format "
        "safetensors."
    )


def scheduler_config(model: Model) -> dict[str, Any]:
    """Return the configuration of the scheduler that takes the steps of the model's sampler.

    It is a `DDPMScheduler` for the sampler ddpm and for a learned variance, which `DDIMScheduler`
    lacks, and a `DDIMScheduler` otherwise.
    """
    spec, learned = model.spec, model.spec.network.options["learned_variance"]
    sampler, clamp = spec.sampling.sampler, spec.sampling.clamp
    betas = model.denoiser.schedule.betas.tolist()
    ddpm = sampler.name == "ddpm" or learned
    rules = ("trailing", "leading", *["linspace"] * ddpm)
    config: dict[str, Any] = {
        "_class_name": "DDPMScheduler" if ddpm else "DDIMScheduler",
        "num_train_timesteps": len(betas),
        "trained_betas": betas,
        "prediction_type": PREDICTION_TYPES[spec.diffusion.prediction.name],
        "timestep_spacing": spec.sampling.rule if spec.sampling.rule in rules else rules[0],
        "clip_sample": clamp is True,
        "clip_sample_range": 1.0,
        "thresholding": clamp == "dynamic",
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": NO_CAP if clamp == "dynamic" else 1.0,
    }
    if not ddpm:
        return config | {"set_alpha_to_one": True, "steps_offset": 0}
    variance = sampler.options.get("variance", "small")
    return config | {"variance_type": "learned_range" if learned else f"fixed_{variance}"}


CARD = """\
---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- unconditional-image-generation
- ddpm
- fromnoise
---

# {name}

A denoising diffusion model, trained by fromnoise and written by `fromnoise export`.

| | |
|---|---|
| images | {height}×{width}, channels: {channels}, trained as {levels} |
| network | `UNet2DModel`, {parameters:,} parameters{patches} |
| prediction | `{prediction}` |
| process | T = {T}, schedule {schedule}: `trained_betas` of the scheduler |
| weights | {weights}, of step {step:,} |
| training data | {source} |
| licence | not stated |

```python
import torch
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained({path})
images = pipeline(
    batch_size=4,
    generator=torch.Generator().manual_seed(0),
    {arguments},
).images
{after}```

{remark}Back to fromnoise: `fromnoise import {name} --out model`{back}.
"""
AFTER = "x = torch.from_numpy(images).permute(0, 3, 1, 2)  # (4, {}, {}, {}) in [0, 1]\n"
SHUFFLE = "x = torch.nn.functional.pixel_shuffle(x, {})  # (4, {}, {}, {})\n"
REMARK = (
    "With `use_clipped_model_output=True` and a number of steps that divides T, the same noise "
    "gives the same images as the sampler ddim of fromnoise.\n\n"
)


def model_card(model: Model, name: str, pipeline: str, network: DDPM) -> str:
    """Return the README.md of an exported folder: facts about the model, and code to sample."""
    spec, patch = model.spec, network.patch
    (height, width), T, steps = (
        spec.size,
        spec.diffusion.T,
        min(spec.sampling.steps, spec.diffusion.T),
    )
    arguments = {"num_inference_steps": str(steps)}
    if ddim := pipeline == "DDIMPipeline":
        divisors = [d for d in range(1, T + 1) if T % d == 0]
        nearest = min(divisors, key=lambda d: abs(math.log(d / steps)))
        eta = spec.sampling.sampler.options.get("eta", 0.0)
        arguments = {"num_inference_steps": str(nearest), "eta": f"{eta:g}"}
        arguments["use_clipped_model_output"] = "True"
    after = ""
    if patch > 1 or spec.channels not in SHOWN_WHOLE:  # Pillow has no such images
        arguments["output_type"] = '"np"'
        after = AFTER.format(spec.channels * patch**2, height // patch, width // patch)
    if patch > 1:
        after += SHUFFLE.format(patch, spec.channels, height, width)
    return CARD.format(
        name=name,
        path=json.dumps(name),
        pipeline=pipeline,
        height=height,
        width=width,
        channels=spec.channels,
        levels=spec.levels,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        patches=f"; the {patch}×{patch} pixels of a patch are channels" if patch > 1 else "",
        prediction=PREDICTION_TYPES[spec.diffusion.prediction.name],
        T=T,
        schedule=spec.diffusion.schedule.name,
        weights=spec.weights_name,
        step=spec.step,
        source=spec.source or "not known",
        arguments=",\n    ".join(f"{key}={value}" for key, value in arguments.items()),
        after=after,
        remark=REMARK if ddim else "",
        back=", a model of patches as channels" if patch > 1 else "",
    )
