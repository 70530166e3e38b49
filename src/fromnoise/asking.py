"""What a person asks for on the command line, in words → numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fromnoise.config import ConfigError, Sampling
from fromnoise.data import read_conditions
from fromnoise.data.labels import exactly, in_turn, parse_labels, parse_weights


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
    count: int,
    *,
    class_: str | None = None,
    labels: str | None = None,
    cycle_classes: bool = False,
    file: Path | None = None,
) -> np.ndarray | None:
    """The condition of each of `count` images, int8 (count, K), or None where nothing is asked.

    names: the labels of the model.
    class_: this label, or these with commas, and none of the others. labels: `red cube, -blue
    sphere`, the rest not said. cycle_classes: each label alone, one after the other. file: the
    conditions in it, one an image, from the first again where images are more.
    Raises ConfigError for two of these at once, and for a model without labels; DataError for an
    unknown label.
    """
    asked = [class_ is not None, labels is not None, cycle_classes, file is not None]
    if not any(asked):
        return None
    if sum(asked) > 1:
        raise ConfigError(
            "--class, --labels, --cycle-classes and --conditions exclude each other; give one"
        )
    _check_labels(names)
    if cycle_classes:
        return in_turn(names, count)
    if file is not None:
        shown = read_conditions(file, names)
        return shown[np.arange(count) % len(shown)]
    if class_ is not None:
        row = exactly([word.strip() for word in class_.split(",")], names)
    else:
        row = parse_labels(labels or "", names)
    return np.repeat(row[None], count, axis=0)


def composition(names: Sequence[str], text: str | None) -> dict[str, float] | None:
    """`red cube=3, blue sphere=-1` → {name: weight}, or None of nothing; see `Model.sample`."""
    if text is None:
        return None
    _check_labels(names)
    return parse_weights(text, names)


def _check_labels(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError(
            "this model was trained without labels, so it cannot be asked for any; train one with "
            "data.labels=true"
        )


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
