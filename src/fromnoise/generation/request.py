"""A request for generated images: the model, its settings, the conditioning and the folder.

The conditioning has the labels of each image, or a composition, and autoguidance.
"""

import logging
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import FORMULA, SamplingConfig
from fromnoise.data import labels as labelling
from fromnoise.data import read_conditions
from fromnoise.model.model import Autoguidance, Model
from fromnoise.model.spec import ModelSpec
from fromnoise.pictures import SHOWN_WHOLE, grid_figure, literal, save_pngs
from fromnoise.progress import progress_bar

logger = logging.getLogger("fromnoise")
DEFAULT_COUNT = 64  # images


class Conditioning(NamedTuple):
    """Labels of images, a composition, and autoguidance. The default is unconditional."""

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
        return [labelling.describe_labels(row, label_names) for row in self.cond]


class Request(NamedTuple):
    """A model, its sampling settings, the conditioning, and a folder for the images.

    conditioning: a row per image for samples; one row, for all images, for edits.
    """

    model: Model
    config: SamplingConfig
    folder: Path
    conditioning: Conditioning = Conditioning()
    batch_size: int = 64

    def write(
        self, batches: Iterable[Tensor], names: Sequence[str], metadata: Sequence[Mapping[str, str]]
    ) -> tuple[list[Path], np.ndarray]:
        """Write each batch of x_0, (B,C,H,W), as soon as it is sampled: NAME.png with metadata.

        Returns the files and all images, (N,C,H,W) of the model's depth.
        """
        files: list[Path] = []
        images: list[np.ndarray] = []
        spec = self.model.spec
        if (channels := spec.channels) not in SHOWN_WHOLE:
            logger.warning(
                "the images have %d channels: a PNG shows %d of them, and an npz holds all",
                channels,
                1 if channels == 2 else 3,
            )
        elif not spec.png_holds_all:
            kind = "floats" if spec.depth == "float" else "16 bits in colour"
            logger.warning("the images are %s: a PNG shows 8 bits, and an npz holds all", kind)
        with progress_bar("images") as progress:
            for x in batches:
                rows = slice(len(files), len(files) + len(x))
                images.append(self.model.pixels(x).numpy())
                shown = images[-1] if spec.png_holds_all else spec.levels.to_bytes(images[-1])
                files += save_pngs(shown, self.folder, names[rows], metadata[rows])
                progress(len(files), len(names))
        return files, np.concatenate(images)

    def compare(self, rows: list[list[tuple[str, np.ndarray]]], title: str) -> Path:
        """Write comparison.png of captions and images, under the labels of an edit and a title."""
        captions, images = zip(*chain.from_iterable(rows), strict=True)
        captions = list(map(literal, captions))
        title = heading(title, self.conditioning.captions(self.model.spec.label_names, 1))
        path, how = self.folder / "comparison.png", {"columns": len(rows[0]), "title": title}
        return grid_figure(np.stack(images), path, captions=captions, **how)


def heading(title: str, captions: Sequence[str]) -> str:
    """Return the title, after the caption of the images if all have the same one."""
    if len(set(captions)) > 1 or not captions[0]:
        return title
    return f"{literal(textwrap.shorten(captions[0], 60, placeholder=' …'))}: {title}"


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

    names: labels of the model. count: by default 64, one per condition of a file, or whole cycles
    of the classes. class_: these labels, separated by commas, are present, and all others absent.
    labels: `red cube, -blue sphere`: present and absent; all others are open. compose: `red cube=3,
    blue sphere=-1`: weights for all images. cycle_classes: each label in turn. file: a condition
    per image, repeated if needed.

    Raises ConfigError for several of these options, or an unconditional model; DataError for wrong
    labels.
    """
    options = [class_, labels, compose, file, cycle_classes or None]
    given = len(options) - options.count(None)
    if not given:
        return Conditioning()
    if given > 1:
        raise ConfigError(
            "--class, --labels, --compose, --cycle-classes and --conditions exclude each other. "
            "Give one."
        )
    if not names:
        raise ConfigError("this model is unconditional. Remove the label options.")
    if compose is not None:
        return Conditioning(compose=labelling.parse_weights(compose, names))
    usual = DEFAULT_COUNT
    if cycle_classes:
        rows = labelling.one_label_each(names, len(names))
        usual = max(DEFAULT_COUNT // len(names), 1) * len(names)
    elif file is not None:
        rows = read_conditions(file, names)
        usual = len(rows)
    elif class_ is not None:
        rows = labelling.exact_labels(labelling.split_labels(class_, names), names)[None]
    else:
        rows = labelling.parse_labels(labels or "", names)[None]
    return Conditioning(rows[np.arange(count or usual) % len(rows)])


def guidance_notes(
    spec: ModelSpec, config: SamplingConfig, conditioning: Conditioning
) -> list[str]:
    """Return lines to log before sampling: the formula, and conditions that were not trained."""
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
            "some labels are open, but this model was trained with training.label_dropout = 0, "
            "only on images with all labels or with none"
        )
    return notes


def guidance_formula(config: SamplingConfig, compose: Mapping[str, float] | None = None) -> str:
    """Return the formula of the guidance in one line, or an empty string if it is off."""
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
