"""What a person asks for on the command line, in words → numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import Sampling
from fromnoise.data import read_conditions
from fromnoise.data.labels.names import exact_labels, one_label_each, parse_labels, parse_weights

MANY = 64  # images, when nobody says how many


def parse_seeds(text: str) -> list[int]:
    """`0-3,8` → [0, 1, 2, 3, 8]. Raises ConfigError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"seeds {text!r} cannot be read; write 0-63, or 0,5,7-9")
        if dash and int(last) < int(first):
            raise ConfigError(f"seeds {text!r}: {part.strip()} runs backwards; write 0-63, or 0,5")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def parse_times(text: str) -> list[int]:
    """`999,700,0` → [999, 700, 0]. Raises ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"times {text!r} cannot be read; write 999,700,400,100,0")
    return [int(part) for part in parts]


def parse_epochs(text: str) -> list[float]:
    """`0,0.5,20` → [0.0, 0.5, 20.0]. Raises ConfigError for anything else."""
    try:
        epochs = [float(part) for part in text.split(",")]
    except ValueError:
        epochs = [-1.0]
    if not all(0 <= epoch < float("inf") for epoch in epochs):
        raise ConfigError(f"epochs {text!r} cannot be read; write 0,50,100,150,199")
    return epochs


def parse_scales(text: str) -> list[float]:
    """`1,2,3.5` → [1.0, 2.0, 3.5]. Raises ConfigError for anything else."""
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = [-1.0]
    if not all(0 <= scale < float("inf") for scale in scales):
        raise ConfigError(
            f"guidance {text!r} cannot be read: write scales s of at least 0, as in 1,2,3; "
            "ε = ε_∅ + s·(ε_c − ε_∅), where 1 is off"
        )
    return scales


def only_scale(scales: Sequence[float] | None) -> float | None:
    """The one scale that was given, or None. Raises ConfigError for several."""
    if scales is not None and len(scales) > 1:
        raise ConfigError(
            "several scales of guidance are for scoring labels (--conditions, --labels, "
            "--cycle-classes); images are one set at one scale, so give one"
        )
    return scales[0] if scales else None


def parse_counts(text: str) -> list[int]:
    """`5,10,20` → [5, 10, 20]. Raises ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"steps {text!r} cannot be read; write 5,10,20,50,100")
    return [int(part) for part in parts]


def parse_names(text: str) -> list[str]:
    """`fid, kid` → ["fid", "kid"]."""
    return [name.strip() for name in text.split(",")]


def parse_colour(text: str) -> tuple[int, int, int]:
    """`255,128,0` → (255, 128, 0). Raises ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and int(part) < 256 for part in parts):
        raise ConfigError(f"colour {text!r} cannot be read; write R,G,B, each in 0..255")
    red, green, blue = map(int, parts)
    return red, green, blue


def parse_interval(text: str) -> tuple[int, int]:
    """`200-800` → (200, 800). Raises ConfigError for anything else."""
    first, dash, last = text.partition("-")
    if not dash or not first.strip().isdecimal() or not last.strip().isdecimal():
        raise ConfigError(f"interval {text!r} cannot be read; write first-last t, as in 200-800")
    return int(first), int(last)


def conditions(
    names: Sequence[str],
    count: int | None = None,
    *,
    class_: str | None = None,
    labels: str | None = None,
    compose: str | None = None,
    cycle_classes: bool = False,
    file: Path | None = None,
) -> tuple[np.ndarray | None, dict[str, float] | None]:
    """What each of `count` images shall show: int8 (count, K) and None, or None and a composition.

    Both are None where nothing is asked. Of `compose`, `red cube=3, blue sphere=-1`, come the
    weights of `Model.sample`; they hold for all images.

    names: the labels of the model. count: where None, 64; of a file one for each condition; of
    classes in turn whole rounds.
    class_: this label, or these with commas, and none of the others. labels: `red cube, -blue
    sphere`, the rest not said. cycle_classes: each label alone, one after the other. file: the
    conditions in it, one an image, from the first again where images are more.
    Raises ConfigError for two of these at once, and for a model without labels; DataError for an
    unknown label.
    """
    asked = [class_, labels, compose, file, True if cycle_classes else None]
    if all(one is None for one in asked):
        return None, None
    if sum(one is not None for one in asked) > 1:
        raise ConfigError(
            "--class, --labels, --compose, --cycle-classes and --conditions exclude each other; "
            "give one"
        )
    if not names:
        raise ConfigError(
            "this model was trained without labels, so it cannot be asked for any; train one with "
            "data.labels=true"
        )
    if compose is not None:
        return None, parse_weights(compose, names)
    if cycle_classes:
        return one_label_each(names, count or max(MANY // len(names), 1) * len(names)), None
    if file is not None:
        shown = read_conditions(file, names)
        return shown[np.arange(count or len(shown)) % len(shown)], None
    if class_ is not None:
        row = exact_labels([word.strip() for word in class_.split(",")], names)
    else:
        row = parse_labels(labels or "", names)
    return np.repeat(row[None], count or MANY, axis=0), None


def how_to_sample(**given: Any) -> dict[str, Any]:
    """The options of `Model.sampling_plan` from those of the command line that were given."""
    how = {key: value for key, value in given.items() if value is not None}
    if "guidance_interval" in how:
        how["guidance_interval"] = parse_interval(how["guidance_interval"])
    if "clamp" in how:
        how["clamp"] = {"yes": True, "no": False, "dynamic": "dynamic"}[how["clamp"]]
    return how


def remarks(
    names: Sequence[str],
    plan: Sampling,
    cond: np.ndarray | None,
    compose: Mapping[str, float] | None,
    *,
    label_dropout: float | None,
) -> list[str]:
    """What the person should know of this wish: the formula, and what the model never learned.

    label_dropout: that of the training, None where it is not known.
    """
    if not names:
        return []
    if cond is None and compose is None:
        return [
            "no label is asked for (--class, --labels, --compose, --cycle-classes, --conditions): "
            "the images are of any kind"
        ]
    lines = [line] if (line := formula(plan, compose)) else []
    partial = compose is not None or (cond is not None and (cond == 0).any())
    if partial and label_dropout == 0:
        lines.append(
            "labels are left open, but with training.label_dropout = 0 this model has only seen "
            "images of which every label was said, or none"
        )
    return lines


def formula(plan: Sampling, compose: Mapping[str, float] | None = None) -> str:
    """How the labels steer, in one line for the person; empty where they are not made stronger."""
    if compose is not None:
        terms = "".join(
            f" {'−' if w < 0 else '+'} {abs(w):g}·(ε[{name}] − ε_∅)" for name, w in compose.items()
        )
        return f"composed: ε = ε_∅{terms}"
    if plan.guidance == 1:
        return ""
    line = f"guidance: ε = ε_∅ + s·(ε_c − ε_∅) with s = {plan.guidance:g}; 1 is off"
    if plan.guidance_interval is not None:
        line += ", for t from {} to {}".format(*plan.guidance_interval)
    if plan.guidance_rescale:
        line += f", rescaled with φ = {plan.guidance_rescale:g}"
    return line


def autoguidance_formula(scale: float, weak_step: int) -> str:
    """How a weaker model steers, in one line for the person."""
    return (
        f"autoguidance: ε = ε_weak + s·(ε − ε_weak) with s = {scale:g}, ε_weak of the model of "
        f"step {weak_step:,}; 1 is off"
    )
