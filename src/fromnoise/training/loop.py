"""The training loop (Algorithm 1 of Ho et al. 2020, arXiv:2006.11239)."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

from fromnoise.checkpoints import list_checkpoints, mark_best, prune, save_checkpoint
from fromnoise.config.schema import Recipe
from fromnoise.data import ImageSet
from fromnoise.data.loader import LoadBatch, feed
from fromnoise.diffusion import Objective
from fromnoise.model.model import Model
from fromnoise.model.spec import ModelSpec
from fromnoise.rng import seed_of
from fromnoise.training.ema import delete_later_snapshots, save_snapshots, snapshot_every
from fromnoise.training.held_out import ended_by_patience, held_out_loss, images_compared
from fromnoise.training.log import EpochLoss, LogWindow, RunLog
from fromnoise.training.state import TrainingState, learning_rate
from fromnoise.training.step import Batch, sample_batch, sample_images, train_step

MAX_SKIPPED = 10
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
logger = logging.getLogger("fromnoise")


class Diverged(RuntimeError):
    """The loss was not finite for many steps in a row."""


class StopSignal:
    """A context in which Ctrl-C, SIGTERM or SIGHUP does not end the process, but sets `received`.

    A second signal has its usual effect. An ignored SIGHUP, as under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._handlers = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # only it can set handlers
            off = [s for s in SIGNALS[2:] if signal.getsignal(s) == signal.SIG_IGN]  # SIGHUP
            self._handlers = {s: signal.signal(s, self._receive) for s in SIGNALS if s not in off}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.__exit__()
        logger.info("%s: saving after this step. Send it again to end at once", self.received)

    def __exit__(self, *error: object) -> None:
        for s, handler in self._handlers.items():
            signal.signal(s, handler)


class Setup(NamedTuple):
    """The fixed parts of a training. recipe: with epochs converted to steps. folder: of the run.

    held_out: the images that `data.holdout` excludes from `images`.
    """

    recipe: Recipe
    spec: ModelSpec
    images: ImageSet
    folder: Path
    held_out: ImageSet | None = None


class Callback(NamedTuple):
    """A function that `fit` calls every `every` steps and after the last step.

    If the call runs out of memory, the training continues with a warning. made: returns whether the
    result of a step exists; a killed run may lack it. slow: save a checkpoint before the call, and
    skip the call after a stop signal.
    """

    name: str
    every: float
    call: Callable[[TrainingState, RunLog, StopSignal], None]
    made: Callable[[int], bool]
    slow: bool = False

    def due(self, step: int, steps: int) -> bool:
        """Return whether to call it after `step` in a training of `steps` steps."""
        return step > 0 and (step % self.every == 0 or step == steps)


def fit(setup: Setup, state: TrainingState, callbacks: Sequence[Callback]) -> str | None:
    """Train from `state.step` to the last step, or until a signal; then save the state.

    Writes the log, checkpoints and snapshots of averages into the run folder. Returns the name of
    the signal. Raises Diverged, DiskFull, NotFinite.
    """
    recipe, spec, data, folder, held_out = setup
    settings, T = recipe.training, recipe.diffusion.T
    objective = recipe.diffusion.objective()
    delete_later_snapshots(folder, state.step)

    if state.held_out:  # a killed process may have left it undone
        mark_best(folder / "checkpoints", state.held_out)
    saved_step = state.step or None  # a state after step 0 comes from a checkpoint

    def checkpoint() -> None:
        nonlocal saved_step
        ending = state.step >= settings.steps or state.ended or stop.received
        if state.step == saved_step or (
            state.skipped_in_a_row and not ending
        ):  # keep the checkpoints from before the skipped steps
            return
        contents = {**state.numbers(), "recipe": recipe.model_dump(mode="json")}
        contents |= {"seed": settings.seed, "data_fingerprint": data.fingerprint}
        saved = save_checkpoint(folder / "checkpoints", state.step, state.files(spec), contents)
        saved_step = state.step
        best = mark_best(saved.parent, state.held_out)
        prune(saved, settings.keep_checkpoints, settings.milestone_every, best)
        logger.info("saved %s", saved.absolute())

    def call(callback: Callback) -> None:
        if callback.slow:
            checkpoint()
        failed = False
        try:
            callback.call(state, log, stop)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            logger.warning("step %d: out of memory, no %s (%s)", state.step, callback.name, why)
            failed = True
        if failed:  # not in `except`, where the error references tensors
            torch.cuda.empty_cache()
        state.denoiser.network.train()

    state.denoiser.network.train()
    device = next(state.denoiser.parameters()).device
    with (
        StopSignal() as stop,
        RunLog(folder, settings, from_step=state.step) as log,
        feed(partial(sample_images, recipe, data), device) as images,
    ):
        for callback in callbacks:  # of a process that was killed after its checkpoint
            due = callback.due(state.step, settings.steps) or state.ended
            if due and not callback.made(state.step):
                call(callback)
        finished = state.step >= settings.steps or state.ended
        while not finished and not (stop.received and state.step == saved_step):
            # one optimiser step
            started = time.perf_counter()
            rate = learning_rate(settings, state.step)
            batch, losses, norm = take_step(recipe, data, state, objective, images, rate)
            if state.skipped_in_a_row:
                report_skipped_step(state, losses, norm, batch.t, log, folder)
            state.step += 1
            elapsed = time.perf_counter() - started
            state.seconds += elapsed
            state.window.add(losses, batch.t, T, norm, elapsed, batch.cond, batch.factor)
            state.epoch.add(losses, batch.factor)
            log.advance(state.step)

            # at the end of an epoch: its mean loss
            epoch = state.step * settings.batch_size // len(data)
            if epoch > (state.step - 1) * settings.batch_size // len(data):
                log.epoch(state.step, epoch, state.epoch.mean())
                state.epoch = EpochLoss()

            # every `checkpoint_every` steps and at the end: the loss of held-out images
            last = state.step == settings.steps
            due = state.step % settings.checkpoint_every == 0 or last
            if due and held_out is not None:
                compare_held_out(setup, state, log)
            last = last or bool(state.ended)

            # every `log_every` steps and at the end: a row in the log
            if state.step % settings.log_every == 0 or last:
                seen = state.step * settings.batch_size
                numbers = {"images": seen, "epoch": seen / len(data), "seconds": state.seconds}
                numbers |= {"learning_rate": rate, "batch_size": settings.batch_size}
                log.row({"step": state.step, **state.window.means(), **numbers})
                state.window = LogWindow()

            # snapshots of the power-function averages, if there are any. They precede the
            # checkpoint, because a run that resumes from it does not write them again
            if state.updates and (state.step % snapshot_every(settings) == 0 or last):
                counts = {"step": state.step, "updates": state.updates}
                save_snapshots(state.power_emas, spec, folder, **counts)

            # every `checkpoint_every` steps, at the end, and on a signal: a checkpoint
            stopped_by = stop.received  # read once: a signal may arrive between any two lines
            if due or stopped_by:
                checkpoint()

            # previews, scores, …
            for callback in callbacks:
                called = callback.due(state.step, settings.steps) or last
                if called and not (callback.slow and stopped_by):
                    call(callback)

            finished = last
            if state.ended:
                logger.info("finished at step %d: %s", state.step, state.ended)
            if stop.received and not finished:  # also while a callback ran
                checkpoint()
                where = stop.received, state.step, folder.absolute()
                logger.info("stopped by %s at step %d. To continue: fromnoise resume %s", *where)
                break
    return stop.received


def take_step(
    recipe: Recipe,
    data: ImageSet,
    state: TrainingState,
    objective: Objective,
    images: LoadBatch,
    rate: float,
) -> tuple[Batch, Tensor, float]:
    """Take optimiser step `state.step` (Algorithm 1). Return the batch, losses (B,), gradient norm.

    images: from `feed`. rate: the learning rate.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    device = next(state.denoiser.parameters()).device
    drawn = state.history, images(state.step)
    batch = sample_batch(recipe, data, state.step, *drawn, device=device)
    torch.manual_seed(seed_of(recipe.training.seed, state.step, "network"))  # for torch's layers
    return batch, *train_step(state, objective, batch, recipe.training)


def compare_held_out(setup: Setup, state: TrainingState, log: RunLog) -> None:
    """Log the loss of held-out images, and set `state.ended` by `training.patience`."""
    recipe, spec, data, _, held_out = setup
    assert held_out is not None
    state.held_out_count = state.held_out_count or images_compared(recipe, held_out, data)
    average = Model(state.denoiser.with_network(state.ema.module), spec)
    count, precision = state.held_out_count, state.computation.precision
    losses = held_out_loss(average, recipe, held_out, data, count, precision)
    log.event(state.step, **losses.row())
    state.held_out.append((state.step, losses.value))
    state.ended = ended_by_patience(state.held_out, recipe.training.patience)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Python, a GPU or torch's CPU allocator ran out of memory."""
    texts = ("out of memory", "allocate memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def report_skipped_step(
    state: TrainingState, losses: Tensor, norm: float, t: Tensor, log: RunLog, folder: Path
) -> None:
    """Log that a step was skipped. Raises Diverged after MAX_SKIPPED skipped steps in a row."""
    bad = ~torch.isfinite(losses)
    where = (
        f"loss at timestep t = {t[bad][0]}"
        if bad.any()
        else f"gradient norm (the largest loss, {losses.max():.3g}, is at timestep "
        f"t = {t[losses.argmax()]})"
    )
    step = state.step + 1
    log.event(step, skipped=where)
    logger.warning("step %d: the %s is not finite. The step is skipped", step, where)
    if state.skipped_in_a_row >= MAX_SKIPPED:
        saved = list_checkpoints(folder / "checkpoints")
        fix = f"The last checkpoint is {saved[-1].absolute()}. Resume" if saved else "Train again"
        raise Diverged(
            f"training stopped at step {step}: {MAX_SKIPPED} steps in a row were not finite. In "
            f"the last one it was the {where}. {fix} with a lower training.learning_rate, or with "
            "training.precision=fp32."
        )
