"""Find the number of steps that fit into `training.minutes`, by timing a few.

The minutes include the timed steps, the previews, the scores and the last checkpoint. The timed
steps train a copy, which is discarded. The number of steps is then stored in recipe.yaml, and the
run is an ordinary one.
"""

import logging
import math
import shutil
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fromnoise.checkpoints import save_checkpoint
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Recipe
from fromnoise.data.loader import feed
from fromnoise.progress import format_duration
from fromnoise.training import previews
from fromnoise.training.log import RunLog
from fromnoise.training.loop import (
    Callback,
    Setup,
    StopSignal,
    compare_held_out,
    is_out_of_memory,
    take_step,
)
from fromnoise.training.state import TrainingState
from fromnoise.training.step import sample_images

UNCOUNTED, MEASURED = 5, 20  # steps: the first ones allocate memory, and may compile
MOST = 10**9  # steps
SHORT = 5.0  # seconds of a preview
SCRATCH = ".timing-"
logger = logging.getLogger("fromnoise")


class Seconds(NamedTuple):
    """The seconds of one step, and of each task that runs at an interval."""

    step: float
    preview: float
    checkpoint: float
    score: float
    result: float = 0.0  # once, at the end

    def of(self, recipe: Recipe, steps: int) -> float:
        """Return the seconds of a training of `steps` steps."""
        recipe = recipe.with_steps(steps)
        settings, scored = recipe.training, recipe.evaluation.every
        seconds = steps * self.step + self.result
        seconds += -(-steps // settings.preview_every) * self.preview
        seconds += -(-steps // settings.checkpoint_every) * self.checkpoint
        return seconds + (-(-steps // scored) * self.score if scored else 0.0)

    def steps_within(self, recipe: Recipe, seconds: float) -> int:
        """Return the largest number of steps that take at most `seconds`."""
        return bisect_right(range(1, MOST), seconds, key=partial(self.of, recipe))

    def spread(self, recipe: Recipe, seconds: float) -> Recipe:
        """Return the recipe whose previews, checkpoints and scores each take at most a tenth.

        Only intervals that are shares of the training change. Each task also runs at the last step.
        """

        def share(every: float, one: float) -> float:
            return min(1.0, max(every, 10 * one / seconds)) if isinstance(every, float) else every

        training, evaluation = recipe.training, recipe.evaluation
        spread = {
            "preview_every": share(training.preview_every, self.preview),
            "checkpoint_every": share(training.checkpoint_every, self.checkpoint),
        }
        scored = {"every": share(evaluation.every, self.score)}
        return recipe.model_copy(
            update={
                "training": training.model_copy(update=spread),
                "evaluation": evaluation.model_copy(update=scored),
            }
        )


class TooShort(ConfigError):
    """`training.minutes` is too short to time a few steps and train."""


def recipe_within_budget(
    setup: Setup,
    state: TrainingState,
    callbacks: Callable[[Setup], Sequence[Callback]],
    stop: StopSignal,
) -> Recipe:
    """Return the recipe with the number of steps that fit into its time.

    The timed steps change `state`: discard it afterwards. callbacks: those of a run; all that are
    not slow are called once or twice, in a scratch folder. After a stop signal the recipe is
    returned unchanged. Raises TooShort.
    """
    recipe, started = setup.recipe, time.perf_counter()
    budget = recipe.training.budget
    assert budget is not None

    def spent() -> float:
        return time.perf_counter() - started

    for left_over in setup.folder.glob(f"{SCRATCH}*"):  # of a killed process
        shutil.rmtree(left_over, ignore_errors=True)
    level = logger.level
    logger.setLevel(logging.WARNING)  # no lines about files of the scratch folder
    try:
        with tempfile.TemporaryDirectory(dir=setup.folder, prefix=SCRATCH) as scratch:
            trial = setup._replace(recipe=recipe.with_steps(MOST), folder=Path(scratch))
            timed = measure(trial, state, callbacks, stop, lambda: spent() > budget)
    finally:
        logger.setLevel(level)
    if stop.received:
        return recipe
    left, steps = budget - spent(), 0
    if timed is not None:
        recipe = timed.spread(recipe, left)
        steps = timed.steps_within(recipe, left)
    if timed is None or steps < MEASURED:
        least = 2 * spent() if timed is None else spent() + timed.of(recipe, MEASURED)
        raise TooShort(
            f"training.minutes = {budget / 60:g} is too short: timing some steps took "
            f"{format_duration(spent())}. Give at least minutes={-(-least // 60):.0f}, or a "
            "smaller network."
        )
    recipe = recipe.with_steps(steps)
    settings = recipe.training
    logger.info(
        "%s of %s are left: %d steps of %.3g s, previews (%.3g s) every %d, checkpoints (%.3g s) "
        "every %d",
        *(format_duration(left), format_duration(budget), steps, timed.step, timed.preview),
        *(settings.preview_every, timed.checkpoint, settings.checkpoint_every),
    )
    return recipe


def measure(
    setup: Setup,
    state: TrainingState,
    callbacks: Callable[[Setup], Sequence[Callback]],
    stop: StopSignal,
    over: Callable[[], bool],
) -> Seconds | None:
    """Time steps, a checkpoint and the callbacks. Return None if `over()`, or after a signal."""
    recipe, spec, data, folder, held_out = setup
    objective, settings = recipe.diffusion.objective(), recipe.training
    quiet = settings.model_copy(update={"log_to": ()})
    log = RunLog(folder, quiet, from_step=0)
    state.denoiser.network.train()
    clocked = []
    device = next(state.denoiser.parameters()).device
    with feed(partial(sample_images, recipe, data), device) as images:
        for _ in range(UNCOUNTED + MEASURED):
            clocked.append(time.perf_counter())
            batch, losses, norm = take_step(recipe, data, state, objective, images, rate=0.0)
            state.step += 1
            elapsed = time.perf_counter() - clocked[-1]
            state.window.add(losses, batch.t, recipe.diffusion.T, norm, elapsed, batch.cond)
            if stop.received or over():
                return None
    step = (time.perf_counter() - clocked[UNCOUNTED]) / MEASURED
    log.event(state.step, **state.window.means(), epoch=0.0)

    def seconds_of(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        try:
            work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):  # the training only warns
                raise
        return time.perf_counter() - began

    checkpoint = seconds_of(
        lambda: save_checkpoint(folder, state.step, state.files(spec), state.numbers())
    )
    if held_out is not None:
        checkpoint += seconds_of(lambda: compare_held_out(setup, state, log))
    preview = result = 0.0
    for callback in callbacks(setup):
        if callback.slow:  # the score
            continue
        once = seconds_of(lambda call=callback.call: call(state, log, stop))
        if once < SHORT:  # again, without the imports of the first call
            once = seconds_of(lambda call=callback.call: call(state, log, stop))
        if math.isinf(callback.every):
            result += once
        else:
            preview += once
    # a sampling step of an image takes the same time in a score as in a preview
    passes = recipe.evaluation.num_images * recipe.sampling.steps
    of_a_preview = 2 * recipe.training.preview_images * min(previews.STEPS, recipe.diffusion.T)
    timed = Seconds(step, preview, checkpoint, preview * passes / of_a_preview, result)
    return None if stop.received or over() else timed
