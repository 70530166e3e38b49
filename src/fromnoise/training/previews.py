"""A picture every so often: what the weights would make of the same noise."""

import copy
import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fromnoise.config.errors import ConfigError
from fromnoise.data.labels.names import one_label_each
from fromnoise.model.model import Model
from fromnoise.model.spec import ModelSpec
from fromnoise.pictures import grids_side_by_side
from fromnoise.training.log import LOG_FILE, read_log
from fromnoise.training.state import TrainingState

STEPS = 25  # of DDIM: the same noise gives the same picture, whatever the recipe samples with
STAGES = 5  # in the picture of progress
logger = logging.getLogger("fromnoise")


def save_preview(state: TrainingState, spec: ModelSpec, run: Path, *, count: int = 16) -> Path:
    """Write previews/000500.png: images from the averaged weights beside the raw ones.

    A model with labels is asked for each in turn. The same images go into 000500.npz, from which
    `progress_figure` is made.
    """
    steps = min(STEPS, spec.diffusion.T)
    names = spec.label_names
    cond = torch.from_numpy(one_label_each(names, count)) if names else None
    images: dict[str, np.ndarray] = {}
    raw, precision = state.denoiser.network, state.sampling_precision
    if state.computation.compiled and precision == "fp32":  # bf16 is a copy already
        raw = copy.deepcopy(raw)  # which is not compiled, so no other shape is
    for weights, network in (("EMA", state.ema.module), ("raw", raw)):
        network.eval()
        denoiser = state.denoiser.with_network(network)
        sampled = Model(denoiser, spec, precision=precision).sample(
            range(count), cond=cond, sampler="ddim", steps=steps, eta=0.0
        )
        images[weights] = sampled.numpy()
    state.denoiser.network.train()
    path = run / FOLDER / f"{state.step:06d}.png"
    title = f"step {state.step:,}, {steps} DDIM steps, same noise"
    if names:
        title += f", each label in turn, guidance {spec.sampling.guidance:g}"
    grids_side_by_side([(f"{w} weights", i) for w, i in images.items()], path, title=title)
    write_preview(path.with_suffix(".npz"), ema=images["EMA"], raw=images["raw"])
    return path


def progress_figure(run: Path, *, epochs: Sequence[float] | None = None) -> Path:
    """Write progress.png: what the same noise became at several moments, side by side.

    epochs: the previews nearest to these; by default five, evenly spread from the first to the
    last. Raises ConfigError where the run has no previews yet, or none of these can be read.
    """
    if not (run / LOG_FILE).is_file():
        raise ConfigError(f"{run.absolute()} is no run: it has no {LOG_FILE}")
    found = (file for file in (run / FOLDER).glob("*.npz") if file.stem.isdecimal())
    files = {int(file.stem): file for file in found}
    if not files:
        raise ConfigError(
            f"{run.absolute()} has no previews/*.npz yet; they come every training.preview_every"
        )
    steps = sorted(files)
    rows = [(row.get("epoch", row.get("finished_epoch")), row["step"]) for row in read_log(run)]
    known = [epoch / step for epoch, step in rows if epoch is not None]
    if epochs is not None and not known:
        raise ConfigError(f"the log of {run.absolute()} names no epoch yet; train a little longer")
    per_step = known[-1] if known else 0.0
    if epochs is None:
        spread = np.linspace(0, len(steps) - 1, min(STAGES, len(steps))).round().astype(int)
        chosen = [steps[i] for i in spread]
    else:
        chosen = sorted({min(steps, key=lambda s: abs(s * per_step - e)) for e in epochs})
    panels = []
    for step in chosen:
        when = f"epoch {step * per_step:.3g}, step {step:,}" if known else f"step {step:,}"
        try:
            panels.append((when, read_preview(files[step])))
        except ConfigError as error:
            logger.warning("%s; it is left out", error)
    if not panels:
        raise ConfigError(f"{run.absolute()}: none of its previews can be read")
    title = "the same noise through the training, EMA weights"
    return grids_side_by_side(panels, run / "progress.png", title=title)


FOLDER = "previews"


def write_preview(file: Path, *, ema: np.ndarray, raw: np.ndarray) -> None:
    """Write the images, uint8 (N,C,H,W) each; where that is cut short there is no file."""
    writing = file.with_suffix(".writing")
    try:
        with writing.open("wb") as opened:
            np.savez_compressed(opened, EMA=ema, raw=raw)
        writing.replace(file)
    finally:
        writing.unlink(missing_ok=True)


def read_preview(file: Path) -> np.ndarray:
    """The images of the averaged weights: uint8 (N,C,H,W). ConfigError for a damaged file."""
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            images = arrays["EMA"]
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise ValueError(f"EMA is {images.dtype} {images.shape}")
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{FOLDER}/{file.name} cannot be read: {detail}") from error
    return images
