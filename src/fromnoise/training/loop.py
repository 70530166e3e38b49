"""The training loop, top to bottom (Algorithm 1 of Ho et al. 2020, arXiv:2006.11239)."""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fromnoise.checkpoints import prune, save_checkpoint
from fromnoise.config import Recipe
from fromnoise.curves import loss_figure
from fromnoise.data import ImageSet
from fromnoise.data.batches import load_batch, load_conditions, to_float
from fromnoise.diffusion import Objective
from fromnoise.evaluation.extractors import Extractor
from fromnoise.model_file import ModelSpec
from fromnoise.rng import generator, seed_of
from fromnoise.training.log import RunLog, read_log
from fromnoise.training.optimization import learning_rate
from fromnoise.training.power_ema import drop_later, save_snapshots, snapshot_every
from fromnoise.training.precision import autocast
from fromnoise.training.preview import progress_figure, save_preview
from fromnoise.training.scoring import score
from fromnoise.training.signals import StopWish
from fromnoise.training.state import TrainingState
from fromnoise.training.times import History, draw_times
from fromnoise.training.window import Mean, Window

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
    network, optimizer, scaler = state.denoiser.network, state.optimizer, state.scaler
    parameters = list(network.parameters())
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

    network.train()
    with StopWish() as wish, log.shown():
        while state.step < settings.steps:
            # one optimiser step
            started = time.perf_counter()
            rate = learning_rate(settings, state.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = draw(recipe, data, state.step, state.history)
            torch.manual_seed(seed_of(settings.seed, state.step, "dropout"))
            losses = backward(state, objective, batch, settings.accumulation)
            scaler.unscale_(optimizer)
            clip = settings.clip_norm or math.inf
            norm = torch.nn.utils.clip_grad_norm_(parameters, clip).item()
            if math.isfinite(norm) and torch.isfinite(losses).all():
                scaler.step(optimizer)
                for average in (state.ema, *state.power_emas):
                    average.update(network, state.updates)
                state.updates += 1
                state.skipped_in_a_row = 0
                if state.history is not None:
                    state.history.add(batch.t, losses)
            else:
                state.skipped_in_a_row += 1
                refuse(state, losses, norm, batch.t, log)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
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
                images = state.step * settings.batch_size
                facts = {"images": images, "epoch": images / len(data), "seconds": state.seconds}
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
            stop = wish.signal  # read once: it may come between any two lines
            if state.step % settings.checkpoint_every == 0 or last or stop:
                checkpoint()

            # once in a while: pictures
            if state.step % settings.preview_every == 0 or last:
                draw_pictures(state, spec, folder, count=settings.preview_images)

            # once in a while, if asked: a score, after a checkpoint, so that none waits for it
            every = recipe.evaluation.every
            if scorer is not None and (state.step % every == 0 or last) and not stop:
                checkpoint()
                score(state, spec, data, recipe.evaluation, scorer, log, lambda: wish.signal)

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
        loss = spec.diffusion.loss_in_words
        loss_figure(read_log(folder), folder / "loss.png", title="Training loss", of=loss)
    except OSError as error:
        logger.warning("step %d: no picture could be written (%s)", state.step, error)


class Batch(NamedTuple):
    """What one step learns from, for each image; on the CPU.

    x0: uint8 (B,C,H,W); eps: like x0; t ∈ {1..T}: (B,); cond: (B,K), None unless `data.labels`;
    factor of the loss: (B,), None for 1; hinted, given a first guess at x_0: bool (B,), None unless
    `network.self_conditioning`.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    cond: Tensor | None = None
    factor: Tensor | None = None
    hinted: Tensor | None = None


def draw(recipe: Recipe, data: ImageSet, step: int, history: History | None = None) -> Batch:
    """The batch of one step: a function of (seed, step) and, for importance, of the losses so far.

    With `diffusion.offset_noise` s it is ε + s·ξ, ξ one normal number for each image and channel:
    so the network learns to change the mean of a channel, which ε alone hardly moves.
    """
    settings = recipe.training
    seed, size = settings.seed, settings.batch_size
    x0 = load_batch(data, seed=seed, step=step, batch_size=size, flip=recipe.data.flip)
    eps = torch.randn(x0.shape, generator=generator(seed, step, "eps"))
    if strength := recipe.diffusion.offset_noise:
        shift = torch.randn(*x0.shape[:2], 1, 1, generator=generator(seed, step, "offset"))
        eps = eps + strength * shift
    draws = generator(seed, step, "t")
    t, factor = draw_times(settings.times, recipe.diffusion.T, size, draws, history)
    cond = hinted = None
    if recipe.data.labels:
        cond = load_conditions(
            data,
            seed=seed,
            step=step,
            batch_size=size,
            dropout=settings.condition_dropout,
            label_dropout=settings.label_dropout,
        )
    if recipe.network.options["self_conditioning"]:
        hinted = torch.rand(size, generator=generator(seed, step, "hint")) < 0.5
    return Batch(x0, eps, t, cond, factor, hinted)


def backward(state: TrainingState, objective: Objective, batch: Batch, accumulation: int) -> Tensor:
    """Add the gradient of the batch's mean loss, computed in parts; the losses (B,), on the CPU.

    The gradient has the factors of the batch, and the losses have not.
    """
    device, count = next(state.denoiser.parameters()).device, len(batch.x0)
    losses = []
    for part in in_parts(batch, accumulation):
        x0, eps = to_float(part.x0.to(device)), part.eps.to(device)
        cond = None if part.cond is None else part.cond.to(device)
        with autocast(device, state.computation.precision):
            loss = objective(state.denoiser, x0, eps, part.t, cond, hinted=part.hinted)
        weighted = loss if part.factor is None else loss * part.factor.to(device)
        state.scaler.scale(weighted.sum() / count).backward()
        losses.append(loss.detach())
    return torch.cat(losses).cpu()


def in_parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch cut into at most `count` parts."""
    for indices in torch.arange(len(batch.x0)).chunk(count):
        part = slice(int(indices[0]), int(indices[-1]) + 1)
        yield Batch._make(None if each is None else each[part] for each in batch)


def refuse(state: TrainingState, losses: Tensor, norm: float, t: Tensor, log: RunLog) -> None:
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
