"""Names, titles and metadata of sampled images."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from fromnoise.config.components import Component, check_component
from fromnoise.config.schema import SamplingConfig
from fromnoise.data.labels.names import describe_labels
from fromnoise.generation.conditioning import Conditioning, composition_text
from fromnoise.generation.request import Request
from fromnoise.model.model import Model
from fromnoise.model.precision import default_precision
from fromnoise.model.spec import FILE_OF, run_folder_of

LONGEST_NAME = 100  # bytes of the labels in a file name
CLAMP_NAMES = {True: "clamped", False: "unclamped", "dynamic": "dynamic"}


def describe(
    request: Request, seeds: Sequence[int], captions: Sequence[str]
) -> tuple[str, list[str], list[dict[str, str]]]:
    """Return a title, and the name (no suffix) and PNG metadata of each image."""
    settings, names, metadata = _settings(request), [], []
    for seed, text in zip(seeds, captions, strict=True):
        names.append(f"{seed:06d}-{_safe(text)}" if text else f"{seed:06d}")
        metadata.append(settings | {"seed": str(seed)} | ({"labels": text} if text else {}))
    return _title(request), names, metadata


def default_folder(
    model: Model, path: Path, config: SamplingConfig, conditioning: Conditioning
) -> Path:
    """Return samples/NAME in the run, or beside a lone file.

    path: where the model was loaded from. NAME holds the step, the weights, the sampler with its
    options and the labels, so that other settings go to other folders. For a file outside a run it
    begins with the file's name. It ends with the precision if that is not the default one.
    """
    spec, (cond, compose, autoguidance) = model.spec, conditioning
    usual = check_component(Component(name=config.sampler.name), "sampling.sampler").options
    parts = [f"{spec.step:06d}", spec.weights_name, config.sampler.name, str(config.steps)]
    if path.is_file() and run_folder_of(path) == path.parent and path.name not in FILE_OF.values():
        parts.insert(0, path.stem)
    parts += [f"{k}{value}" for k, value in config.sampler.options.items() if value != usual[k]]
    parts += [config.timesteps] if config.timesteps != SamplingConfig().timesteps else []
    parts += [CLAMP_NAMES[config.clamp]] if config.clamp != spec.sampling.clamp else []
    if cond is not None:
        parts += [f"guidance{config.guidance:g}"] if config.guidance != 1 else []
        if config.guidance_interval is not None:
            parts += ["t{}-{}".format(*config.guidance_interval)]
        parts += [f"rescale{config.guidance_rescale:g}"] if config.guidance_rescale else []
        same = (cond == cond[0]).all()
        text = describe_labels(cond[0], spec.label_names)
        parts += [_safe(text) if same else f"labels {_digest(cond.tobytes())}"]
    parts += [_safe(composition_text(compose))] if compose is not None else []
    if autoguidance is not None:
        parts += [f"auto{autoguidance.scale:g}by{autoguidance.weak.spec.step:06d}"]
    if config.precision != default_precision(model.device):
        parts += [config.precision]
    return run_folder_of(path) / "samples" / "-".join(parts)


def _settings(request: Request) -> dict[str, str]:
    config, conditioning, spec = request.config, request.conditioning, request.model.spec
    settings = config.model_dump(include={"steps", "timesteps", "clamp", "precision"})
    settings |= {"sampler": config.sampler.name, **config.sampler.options}
    settings |= {"weights": spec.weights_name, "trained steps": spec.step}
    if conditioning.autoguidance is not None:
        weak, scale = conditioning.autoguidance
        settings |= {"autoguidance": f"{scale:g}", "autoguidance steps": weak.spec.step}
    if conditioning.cond is not None:
        settings["guidance"] = f"{config.guidance:g}"
        if config.guidance_interval is not None:
            settings["guidance interval"] = "{}-{}".format(*config.guidance_interval)
        if config.guidance_rescale:
            settings["guidance rescale"] = f"{config.guidance_rescale:g}"
    return {key: str(value) for key, value in settings.items()} | {"software": "fromnoise"}


def _title(request: Request) -> str:
    config, conditioning, spec = request.config, request.conditioning, request.model.spec
    weights = {"ema": "EMA weights", "raw": "raw weights"}[spec.weights]
    if spec.power_average is not None:
        weights += f" of length {spec.power_average.length:g}"
    rule = config.timesteps
    at = f" at {rule} timesteps" if rule != SamplingConfig().timesteps else ""
    title = f"{config.steps} {config.sampler.name.upper()} steps{at}, {weights}"
    if config.guidance != 1:
        title += f", guidance {config.guidance:g}"
    if conditioning.autoguidance is not None:
        weak, scale = conditioning.autoguidance
        title += f", autoguidance {scale:g} by step {weak.spec.step:,}"
    return title


def _safe(text: str) -> str:
    """Return a text as a part of a file name, cut at LONGEST_NAME bytes."""
    safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", text).strip(" .")
    if len(safe.encode()) <= LONGEST_NAME:
        return safe
    short = safe.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{short} {_digest(text.encode())}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=4).hexdigest()
