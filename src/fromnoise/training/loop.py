"""The training loop, top to bottom (Algorithm 1 of Ho et al. 2020, arXiv:2006.11239)."""

import logging
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fromnoise.checkpoints import prune, save_checkpoint
from fromnoise.config.schema import Recipe
from fromnoise.curves import loss_figure
from fromnoise.data import ImageSet
from fromnoise.data.loader import feed
from fromnoise.evaluation.features import Extractor
from fromnoise.evaluation.training_score import score
from fromnoise.model.spec import ModelSpec
from fromnoise.rng import seed_of
from fromnoise.training.log import Mean, RunLog, Window, read_log
from fromnoise.training.optimizer import learning_rate
from fromnoise.training.power_ema import drop_later, save_snapshots, snapshot_every
from fromnoise.training.previews import progress_figure, save_preview
from fromnoise.training.signals import StopSignal
from fromnoise.training.state import TrainingState
from fromnoise.training.step import sample_batch, sample_images, train_step

MAX_SKIPPED = 10
logger = logging.getLogger("fromnoise")


class Diverged(RuntimeError):
    """The loss was not finite for many steps in a row."""


def fit(
    state: TrainingState,
    recipe: Recipe,
    spec: ModelSpec,
    data: ImageSet,
    folder: Path,
    scorer: Extractor | None = None,
) -> None:
    """Train from `state.step` to the last step, or until a signal; then the state is saved.

    Writes the log, previews, checkpoints and snapshots of averages into `folder`. scorer: see
    `open_scorer`. Raises Diverged, DiskFull, NotFinite.
    """
    settings = recipe.training
    objective = recipe.diffusion.objective()
    log = RunLog(
        folder,
        from_step=state.step,
        total_steps=settings.steps,
        tensorboard=settings.tensorboard,
    )
    drop_later(folder, state.step)

    def checkpoint() -> None:
        facts = {**state.numbers(), "recipe": recipe.model_dump(mode="json")}
        facts |= {"seed": settings.seed, "data_fingerprint": data.fingerprint}
        saved = save_checkpoint(folder / "checkpoints", state.step, state.files(spec), facts)
        keep = settings.keep_checkpoints
        prune(saved, keep=keep, milestone_every=settings.milestone_every)
        logger.info("saved %s", saved.absolute())

    state.denoiser.network.train()
    images_of = feed(partial(sample_images, recipe, data), next(state.denoiser.parameters()).device)
    with StopSignal() as stop_signal, log.shown(), images_of as images:
        while state.step < settings.steps:
            # one optimiser step
            started = time.perf_counter()
            rate = learning_rate(settings, state.step)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            batch = sample_batch(recipe, data, state.step, state.history, images(state.step))
            torch.manual_seed(seed_of(settings.seed, state.step, "dropout"))
            losses, norm = train_step(state, objective, batch, settings)
            if state.skipped_in_a_row:
                report_skipped_step(state, losses, norm, batch.t, log)
            state.step += 1
            elapsed = time.perf_counter() - started
            state.seconds += elapsed
            T = recipe.diffusion.T
            state.window.add(losses, batch.t, T, norm, elapsed, batch.cond, batch.factor)
            state.epoch.add(losses, batch.factor)
            log.advance(state.step)

            # at the end of an epoch: its mean loss
            epoch = state.step * settings.batch_size // len(data)
            if epoch > (state.step - 1) * settings.batch_size // len(data):
                log.epoch(state.step, epoch, state.epoch.value())
                state.epoch = Mean()

            # once in a while: a row in the log
            if state.step % settings.log_every == 0 or state.step == settings.steps:
                seen = state.step * settings.batch_size
                facts = {"images": seen, "epoch": seen / len(data), "seconds": state.seconds}
                facts |= {"learning_rate": rate, "batch_size": settings.batch_size}
                log.row({"step": state.step, **state.window.means(), **facts})
                state.window = Window()

            # once in a while, if asked: averages of other lengths, before the checkpoint after
            # which they would not be written again
            last = state.step == settings.steps
            if state.updates and (state.step % snapshot_every(settings) == 0 or last):
                now = {"step": state.step, "updates": state.updates}
                save_snapshots(state.power_emas, spec, folder, **now)

            # once in a while, at the end, and on a signal: a checkpoint
            stop = stop_signal.signal  # read once: it may come between any two lines
            if state.step % settings.checkpoint_every == 0 or last or stop:
                checkpoint()

            # once in a while: pictures
            if state.step % settings.preview_every == 0 or last:
                draw_pictures(state, spec, folder, count=settings.preview_images)

            # once in a while, if asked: a score, after a checkpoint, so that none waits for it
            every = recipe.evaluation.every
            if scorer is not None and (state.step % every == 0 or last) and not stop:
                checkpoint()
                score(state, spec, data, recipe.evaluation, scorer, log, lambda: stop_signal.signal)

            if stop and not last:
                logger.info(
                    "stopped by %s at step %d; to go on: fromnoise resume %s",
                    stop,
                    state.step,
                    folder.absolute(),
                )
                return


def draw_pictures(state: TrainingState, spec: ModelSpec, folder: Path, *, count: int) -> None:
    """Preview, progress and loss curve. A disk that has no room for them does not stop training."""
    try:
        save_preview(state, spec, folder, count=count)
        progress_figure(folder)
        if rows := [row for row in read_log(folder) if "loss" in row]:
            loss = spec.diffusion.loss_in_words
            loss_figure(rows, folder / "loss.png", title="Training loss", loss_name=loss)
    except OSError as error:
        logger.warning("step %d: no picture could be written (%s)", state.step, error)


def report_skipped_step(
    state: TrainingState, losses: Tensor, norm: float, t: Tensor, log: RunLog
) -> None:
    """Note that a step was left out. Raises Diverged after MAX_SKIPPED in a row."""
    bad = ~torch.isfinite(losses)
    where = (
        f"loss at noise level t = {t[bad][0]}"
        if bad.any()
        else f"gradient norm; its largest loss, {losses.max():.3g}, is at noise level "
        f"t = {t[losses.argmax()]}"
    )
    step = state.step + 1
    log.event(step, skipped=where)
    logger.warning("step %d: the %s is not finite; the step is skipped", step, where)
    if state.skipped_in_a_row >= MAX_SKIPPED:
        raise Diverged(
            f"training stopped at step {step}: {MAX_SKIPPED} steps in a row were not finite. In "
            f"the last one it was the {where}. The checkpoints stand: resume with a lower "
            "training.learning_rate, or with training.precision=fp32"
        )
