"""Conditioning of sampled images: labels of each image, a composition, autoguidance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import FORMULA, SamplingConfig
from fromnoise.data import read_conditions
from fromnoise.data.labels import (
    describe_labels,
    exact_labels,
    one_label_each,
    parse_labels,
    parse_weights,
)
from fromnoise.model.model import Autoguidance
from fromnoise.model.spec import ModelSpec

DEFAULT_COUNT = 64  # images


class Conditioning(NamedTuple):
    """Labels of images, a composition, autoguidance. The default is unconditional."""

    cond: np.ndarray | None = None  # labels in {−1, 0, +1}, int8 (N, K)
    compose: Mapping[str, float] | None = None  # label → weight, for all images
    autoguidance: Autoguidance | None = None

    def rows(self, rows: slice | list[int]) -> dict[str, Any]:
        """Return the arguments of `Model.denoise` for some of the images."""
        cond = None if self.cond is None else torch.from_numpy(self.cond[rows])
        return {"cond": cond, "compose": self.compose, "autoguidance": self.autoguidance}

    def captions(self, label_names: Sequence[str], count: int) -> list[str]:
        """Return the labels of each of `count` images as text; empty if there are none."""
        if self.compose is not None:
            return [composition_text(self.compose)] * count
        if self.cond is None:
            return [""] * count
        return [describe_labels(row, label_names) for row in self.cond]


def read_conditioning(
    names: Sequence[str],
    count: int | None = None,
    *,
    class_: str | None = None,
    labels: str | None = None,
    compose: str | None = None,
    cycle_classes: bool = False,
    file: Path | None = None,
) -> Conditioning:
    """Return the conditioning of `count` images from the label options of a command.

    names: labels of the model. count: None is 64, one per condition of a file, or whole rounds of
    the classes. class_: these labels, separated by commas, present, and all others absent. labels:
    `red cube, -blue sphere`: present and absent, the others open. compose: `red cube=3, blue
    sphere=-1`: weights for all images. cycle_classes: each label in turn. file: a condition per
    image, repeated if needed.

    Raises ConfigError for several of these, or an unconditional model; DataError for labels.
    """
    options = [class_, labels, compose, file, True if cycle_classes else None]
    if all(option is None for option in options):
        return Conditioning()
    if sum(option is not None for option in options) > 1:
        raise ConfigError(
            "--class, --labels, --compose, --cycle-classes and --conditions exclude each other. "
            "Give one."
        )
    if not names:
        raise ConfigError("this model is unconditional. Remove the label options.")
    if compose is not None:
        return Conditioning(compose=parse_weights(compose, names))
    usual = DEFAULT_COUNT
    if cycle_classes:
        rows = one_label_each(names, len(names))
        usual = max(DEFAULT_COUNT // len(names), 1) * len(names)
    elif file is not None:
        rows = read_conditions(file, names)
        usual = len(rows)
    elif class_ is not None:
        rows = exact_labels([name.strip() for name in class_.split(",")], names)[None]
    else:
        rows = parse_labels(labels or "", names)[None]
    return Conditioning(rows[np.arange(count or usual) % len(rows)])


def guidance_notes(
    spec: ModelSpec, config: SamplingConfig, conditioning: Conditioning
) -> list[str]:
    """Return the lines to log before sampling: the formula, and requests that were not trained."""
    cond, compose, autoguidance = conditioning
    notes = []
    if autoguidance is not None:
        notes.append(
            f"autoguidance: ε = ε_weak + s·(ε − ε_weak) with s = {autoguidance.scale:g}, ε_weak of "
            f"step {autoguidance.weak.spec.step:,}; 1 is off"
        )
    if not spec.label_names:
        return notes
    if cond is None and compose is None:
        return [*notes, "no labels are set (--class, --labels, …): the images are unconditional"]
    if text := guidance_formula(config, compose):
        notes.append(text)
    partial = compose is not None or (cond is not None and (cond == 0).any())
    if partial and spec.label_dropout == 0:
        notes.append(
            "some labels are open, but this model was trained with training.label_dropout = 0: it "
            "knows images with all labels or with none"
        )
    return notes


def guidance_formula(config: SamplingConfig, compose: Mapping[str, float] | None = None) -> str:
    """Return how labels steer the images, in one line; empty if guidance is off."""
    if compose is not None:
        terms = "".join(
            f" {'−' if w < 0 else '+'} {abs(w):g}·(ε[{name}] − ε_∅)" for name, w in compose.items()
        )
        return f"composed: ε = ε_∅{terms}"
    if config.guidance == 1:
        return ""
    line = f"guidance: {FORMULA} with s = {config.guidance:g}; 1 is off"
    if config.guidance_interval is not None:
        line += ", for t from {} to {}".format(*config.guidance_interval)
    if config.guidance_rescale:
        line += f", rescaled with φ = {config.guidance_rescale:g}"
    return line


def composition_text(compose: Mapping[str, float]) -> str:
    """Return `red cube=3, blue sphere=-1`."""
    return ", ".join(f"{name}={weight:g}" for name, weight in compose.items())
