"""Draw previews of a training: images from the current weights, always from the same noise."""

import copy
import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fromnoise.checkpoints import NotFinite, atomic_file
from fromnoise.config.errors import ConfigError
from fromnoise.curves import loss_figure
from fromnoise.data.labels import one_label_each
from fromnoise.model.model import Model
from fromnoise.model.spec import ModelSpec
from fromnoise.pictures import grids_side_by_side
from fromnoise.training.log import LOG_FILE, read_log
from fromnoise.training.state import TrainingState

FOLDER = "previews"
STEPS = 25  # of DDIM, for any sampler in the recipe: the same noise then gives the same image
STAGES = 5  # in progress.png
logger = logging.getLogger("fromnoise")


def draw_pictures(state: TrainingState, spec: ModelSpec, folder: Path, *, count: int) -> None:
    """Write a preview, progress.png and loss.png. Warn if the disk is full or an image is NaN."""
    try:
        save_preview(state, spec, folder, count=count)
        progress_figure(folder)
        rows = read_log(folder)
        if any("loss" in row for row in rows):
            loss = spec.diffusion.loss_in_words
            loss_figure(rows, folder / "loss.png", title="Training loss", loss_name=loss)
    except (OSError, NotFinite) as error:
        logger.warning("step %d: cannot write the pictures (%s)", state.step, error)


def pictures_made(run: Path, step: int) -> bool:
    """Return whether the preview of a step exists, and progress.png and loss.png are not older."""
    files = [run / FOLDER / f"{step:06d}.npz", run / "progress.png", run / "loss.png"]
    if not all(file.is_file() for file in files):
        return False
    preview, *others = (file.stat().st_mtime_ns for file in files)
    return preview <= min(others)


def save_preview(state: TrainingState, spec: ModelSpec, run: Path, *, count: int = 16) -> Path:
    """Write previews/000500.png: images from the EMA weights beside those from the raw weights.

    A conditional model gets each label in turn. `progress_figure` reads the same images from
    000500.npz.
    """
    steps, names = min(STEPS, spec.diffusion.T), spec.label_names
    cond = torch.from_numpy(one_label_each(names, count)) if names else None
    raw = state.denoiser.network
    precision = "bf16" if state.computation.precision == "bf16" else "fp32"  # never fp16
    if state.computation.compiled and precision == "fp32":  # in bf16, Model copies it
        raw = copy.deepcopy(raw)  # a copy is not compiled: no compilation for this batch size
    images: dict[str, np.ndarray] = {}
    for weights, network in (("EMA", state.ema.module), ("raw", raw)):
        network.eval()
        denoiser = state.denoiser.with_network(network)
        sampled = Model(denoiser, spec, precision=precision).sample(
            range(count),
            cond=cond,
            sampler="ddim",
            steps=steps,
            timesteps=spec.sampling.rule,
            eta=0.0,
        )
        images[weights] = spec.levels.to_bytes(sampled.numpy())
    path = run / FOLDER / f"{state.step:06d}.png"
    title = f"step {state.step:,}, {steps} DDIM steps, same noise"
    if names:
        title += f", each label in turn, guidance {spec.sampling.guidance:g}"
    grids_side_by_side([(f"{w} weights", i) for w, i in images.items()], path, title=title)
    write_preview(path.with_suffix(".npz"), images)
    return path


def progress_figure(run: Path, *, epochs: Sequence[float] | None = None) -> Path:
    """Write progress.png: the previews of several steps, side by side.

    epochs: show the previews nearest to these; by default five, evenly spaced from the first to
    the last. Raises ConfigError if the run has no previews, or if none of them is readable.
    """
    if not (run / LOG_FILE).is_file():
        raise ConfigError(
            f"{run.absolute()} is not a run: it has no {LOG_FILE}. Give a run folder."
        )
    arrays = (run / FOLDER).glob("*.npz")
    files = {int(file.stem): file for file in arrays if file.stem.isdecimal()}
    if not files:
        raise ConfigError(
            f"{run.absolute()} has no previews/*.npz yet. Train for training.preview_every steps."
        )
    steps = sorted(files)
    rows = [(row.get("epoch", row.get("finished_epoch")), row["step"]) for row in read_log(run)]
    per_step = next((epoch / step for epoch, step in reversed(rows) if epoch is not None), 0.0)
    if epochs is None:
        spread = np.linspace(0, len(steps) - 1, min(STAGES, len(steps))).round().astype(int)
        chosen = [steps[i] for i in spread]
    elif not per_step:
        raise ConfigError(f"the log of {run.absolute()} has no epoch yet. Train longer.")
    else:
        chosen = sorted({min(steps, key=lambda s: abs(s * per_step - e)) for e in epochs})
    panels = []
    for step in chosen:
        title = f"epoch {step * per_step:.3g}, step {step:,}" if per_step else f"step {step:,}"
        try:
            panels.append((title, read_preview(files[step])))
        except ConfigError as error:
            logger.warning("%s. It is skipped", error)
    if not panels:
        raise ConfigError(f"{run.absolute()} has no readable preview. Train longer.")
    title = "the same noise at several steps of the training, EMA weights"
    return grids_side_by_side(panels, run / "progress.png", title=title)


def write_preview(file: Path, images: dict[str, np.ndarray]) -> None:
    """Write images of each kind, uint8 (N,C,H,W), into a file that is complete or absent."""
    with atomic_file(file) as writing, writing.open("wb") as opened:
        np.savez_compressed(opened, allow_pickle=False, **images)


def read_preview(file: Path) -> np.ndarray:
    """Return the EMA images, uint8 (N,C,H,W). Raises ConfigError for a damaged file."""
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            images = arrays["EMA"]
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise ValueError(f"EMA is {images.dtype} {images.shape}")
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{FOLDER}/{file.name} cannot be read: {detail}") from error
    return images
