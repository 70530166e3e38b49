"""fromnoise in the contest of time to quality: a recipe, trained by `fromnoise.train`."""

import math
import os
import shutil
import signal
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock, ending
from shards import draw_shards

import fromnoise
from fromnoise.checkpoints import newest_checkpoint, read_state
from fromnoise.training import run as running

MANY = 1_000_000  # steps, where time alone ends the training


def train(
    *,
    folder: str,
    data: str | None,
    recipe: str | Mapping[str, Any],
    steps: int | None,
    seconds: float = math.inf,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train for the steps or until the time is over; the signal that ends it is a person's Ctrl-C.

    Its previews and checkpoints are as the recipe has them, and their time counts. overrides: of
    the recipe, by dotted keys; with `training.minutes`, steps is None.
    """
    shutil.rmtree(folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # where the last step is done, and none waits
    fit, took = running.fit, 0.0

    def timed(*given: Any) -> None:
        nonlocal took
        clock = Clock()
        with ending(clock, seconds, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            fit(*given)
        took = clock.seconds()

    running.fit = timed
    in_minutes = overrides is not None and "training.minutes" in overrides
    length = {} if in_minutes else {"training.steps": steps or MANY}
    try:
        run = fromnoise.train(
            recipe, out=folder, data=data, overrides=length | dict(overrides or {})
        )
    finally:
        running.fit = fit
    newest, _ = newest_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    state, settings = read_state(newest), run.recipe().training
    network = run.model().denoiser.network
    return {
        "how": f"fromnoise {version('fromnoise')}, torch {torch.__version__}, "
        f"batch {settings.batch_size}, computed as {state['computation']}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch_size": settings.batch_size,
        "steps": state["step"],
        "seconds": took,
    }


def draw(
    *, folder: str, trained: str, count: int, steps: int, batch_size: int, first_seed: int = 0
) -> dict[str, Any]:
    """What `Model.sample` draws from the averaged weights, as the recipe has it but for the steps.

    first_seed: of the first image; each has the seed after that of the one before.
    """
    model = fromnoise.load(Path(trained))

    def images(first: int, n: int) -> np.ndarray:
        first += first_seed
        return model.sample(range(first, first + n), batch_size=n, steps=steps).numpy()

    drawn = draw_shards(images, Path(folder), count, batch_size=batch_size)
    return {**drawn, "sampler": model.spec.sampling.sampler.name}
