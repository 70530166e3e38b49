"""The picture at the end of a training: samples, and the training images nearest to some."""

import logging
from pathlib import Path

import numpy as np
import torch

from fromnoise.checkpoints import BEST, STATE, CheckpointError, NotFinite, list_checkpoints
from fromnoise.data.labels import one_label_each
from fromnoise.evaluation.copies import ranked_neighbours
from fromnoise.model.model import Model, load
from fromnoise.pictures import grids_side_by_side
from fromnoise.training.loop import Setup
from fromnoise.training.state import TrainingState

FILE = "result.png"
COUNT, PAIRS, COLUMNS = 36, 18, 6  # samples; pairs of a sample and a training image
MANY, FEW = 100, 50  # steps: a sampler of more than MANY is replaced by DDIM in FEW
logger = logging.getLogger("fromnoise")


def result_made(run: Path) -> bool:
    """Return whether the picture is there, and not older than the newest checkpoint."""
    picture = run / FILE
    return picture.is_file() and all(
        (checkpoint / STATE).stat().st_mtime_ns <= picture.stat().st_mtime_ns
        for checkpoint in list_checkpoints(run / "checkpoints")[-1:]
    )


def draw_result(state: TrainingState, setup: Setup) -> None:
    """Write result.png: samples of the best checkpoint, or of the EMA, and their neighbours.

    A conditional model gets each label in turn. A full disk or a NaN is a warning only.
    """
    try:
        path = _draw(state, setup)
    except (OSError, NotFinite, CheckpointError) as error:
        logger.warning("cannot write %s (%s)", FILE, error)
    else:
        logger.info("%s", path.absolute())


def _draw(state: TrainingState, setup: Setup) -> Path:
    spec, folder = setup.spec, setup.folder
    best = folder / "checkpoints" / BEST
    if best.is_dir():
        model = load(best, device=str(next(state.denoiser.parameters()).device))
        which = f"the best checkpoint, step {model.spec.step:,}"
    else:
        model = Model(state.denoiser.with_network(state.ema.module.eval()), spec)
        which = f"step {state.step:,}"
    names = spec.label_names
    cond = torch.from_numpy(one_label_each(names, COUNT)) if names else None
    few = {"sampler": "ddim", "steps": min(FEW, spec.diffusion.T)}
    settings = few if spec.sampling.steps > MANY else {}
    levels = setup.images.levels
    samples = levels.to_bytes(model.sample(range(COUNT), cond=cond, **settings).numpy())
    config = model.sampling_config(conditional=bool(names), **settings)
    panels = [(f"{COUNT} samples" + (", each label in turn" if names else ""), samples)]
    train = levels.to_bytes(setup.images.images)
    plain, turned = (
        images.reshape(PAIRS, -1) for images in (samples[:PAIRS], samples[:PAIRS, ..., ::-1])
    )
    _, rows, mirrored = ranked_neighbours(plain, turned, train.reshape(len(train), -1), ranks=[1])
    pairs = []
    for sample, row, mirror in zip(samples, rows[:, 0], mirrored[:, 0], strict=False):
        pairs += [sample, train[row][..., ::-1] if mirror else train[row]]
    panels.append((f"{PAIRS} of them, each with its nearest training image", np.stack(pairs)))
    title = f"{which[0].upper()}{which[1:]}, {config.steps} steps of {config.sampler.name}"
    return grids_side_by_side(panels, folder / FILE, title=title, columns=COLUMNS)
