"""Train and resume a run, with the doctor's warnings, previews and scores."""

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fromnoise import checkpoints
from fromnoise.config.errors import ConfigError
from fromnoise.config.overrides import dotted
from fromnoise.config.recipe import load_recipe, parse_recipe
from fromnoise.config.schema import Recipe, Training
from fromnoise.data.arrays import store_images
from fromnoise.data.labels import label_name
from fromnoise.doctor.doctor import log_warnings
from fromnoise.evaluation.result import draw_result, result_made
from fromnoise.evaluation.training_score import open_score_extractor, score, scored
from fromnoise.model.spec import FILE_OF, RECIPE_FILE, ModelSpec, read_spec, require_run
from fromnoise.rng import DRAWS
from fromnoise.training import budget
from fromnoise.training import run as running
from fromnoise.training.loop import Callback, Setup, StopSignal
from fromnoise.training.previews import draw_pictures, pictures_made
from fromnoise.training.state import TrainingState, learning_rate

FIXED = (  # keys that cannot change when a run is resumed
    "data.",
    "network.",
    "diffusion.",
    "training.optimizer",
    "training.start_from",
    "training.seed",
    "training.batch_size",
    "training.ema_lengths",
    "training.augment",  # and augmentations
)
NOT_FIXED = ("data.path", "data.strict")  # the images may have moved
logger = logging.getLogger("fromnoise")


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    data: str | Path | np.ndarray | Dataset | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> running.Run:
    """Train a recipe into a new run folder and return it.

    recipe: the name of a shipped recipe, a YAML file, or a dict. out: `runs/NAME` by default.
    data: images instead of those of the recipe: a path, whose source is detected; an array
    (N, H, W), (N, H, W, C) or (N, C, H, W); or a map-style torch `Dataset` of images or of (image,
    label). Images from memory are stored in the cache, from which `resume` reads them.
    overrides: dotted keys, as in {"training.steps": 500}.
    Raises ValueError for a wrong argument, before anything is written.
    """
    resolved, folder = running.resolve_recipe(recipe, out, data, overrides)
    _require_new(folder)
    setup = running.prepare(resolved, running.open_data(resolved), folder)
    called = callbacks(setup)
    states = [running.start(setup)]
    log_warnings(setup, states[0])
    with checkpoints.claimed(folder):
        _require_new(folder)  # another process may have written it meanwhile
        try:
            return _fit(setup, states.pop(), called)  # no name here keeps the state in memory
        except budget.TooShort:
            (folder / RECIPE_FILE).unlink()
            raise


def _fit(setup: Setup, state: TrainingState, called: list[Callback]) -> running.Run:
    """Train. If the length is in minutes, first find the number of steps."""
    if setup.recipe.training.budget is not None:
        running.write_recipe(setup)  # a run that is killed now can be resumed
        with StopSignal() as stop, running.computing(state):
            recipe = budget.recipe_within_budget(setup, state, callbacks, stop)
        if stop.received:
            logger.info("to time steps and train: fromnoise resume %s", setup.folder.absolute())
            return running.Run(setup.folder, stop.received)
        setup, computation = setup._replace(recipe=recipe), state.computation
        del state
        state, called = running.start(setup, computation=computation), callbacks(setup)
    return running.fit_run(setup, state, called)


def resume(
    folder: str | Path,
    *,
    data: np.ndarray | Dataset | None = None,
    overrides: Mapping[str, Any] | None = None,
    from_scratch: bool = False,
) -> running.Run:
    """Resume a run from its newest whole checkpoint, exactly as if it had never stopped.

    data: the array or `Dataset` of the run, if the cache was emptied since. overrides: dotted keys,
    except those in `FIXED`. from_scratch: begin at step 0 if every checkpoint is damaged.
    Raises ValueError if `folder` is not a run, if a key in `FIXED` changes, or if another process
    trains the run.
    """
    folder = Path(folder)
    require_run(folder)
    with checkpoints.claimed(folder):
        if data is not None:
            overrides = {"data.path": str(store_images(data)), **(overrides or {})}
        return _resume(folder, overrides or {}, from_scratch)


def _resume(folder: Path, overrides: Mapping[str, Any], from_scratch: bool) -> running.Run:
    recipe = running.with_absolute_paths(load_recipe(folder / RECIPE_FILE, overrides))
    checkpoint, damaged = checkpoints.newest_checkpoint(folder / "checkpoints")
    for line in damaged if checkpoint else ():
        logger.warning("%s. Using an earlier checkpoint", line)
    if checkpoint is None and damaged and not from_scratch:
        raise ConfigError(
            f"{damaged[0]}. {folder.absolute()} has no whole checkpoint. Restore one, or add "
            "--from-scratch to begin at step 0."
        )
    if checkpoint is None:
        logger.warning("%s has no whole checkpoint. Starting at step 0", folder.absolute())
        setup = running.prepare(recipe, running.open_data(recipe), folder)
        return _fit(setup, running.start(setup), callbacks(setup))
    saved = checkpoints.read_state(checkpoint)
    _check_draws(saved, checkpoint)
    before = parse_recipe(saved["recipe"], str(folder))  # adds newer keys
    _refuse_changes(before, recipe, folder)
    if recipe.training.budget is not None:
        raise ConfigError(
            f"training.minutes = {recipe.training.budget / 60:g} is for a new training, and "
            f"{folder.absolute()} is at step {saved['step']}. Give training.steps."
        )
    recipe = recipe.with_steps(recipe.training.steps) if recipe.training.steps else recipe
    setup, settings = None, recipe.training
    if settings.epochs is not None:  # a new override: the images give its number of steps
        setup = running.prepare(recipe, running.open_data(recipe), folder)
        settings = setup.recipe.training
    # a killed process may not have written them
    made = pictures_made(folder, saved["step"]) and result_made(folder)
    made = made and (not recipe.evaluation.every or scored(folder, saved["step"]))
    ended = saved.get("ended") and settings.patience == before.training.patience
    if ended:
        line = "%s ended by training.patience at step %d. To train longer: fromnoise resume %s "
        logger.info(f"{line}patience=null", folder.absolute(), saved["step"], folder)
        if made:
            return running.Run(folder)
    elif saved["step"] >= settings.steps:
        line = "%s already finished at step %d. To train longer: fromnoise resume %s steps=%d"
        logger.info(line, folder.absolute(), saved["step"], folder, 2 * saved["step"])
        if made or overrides:
            return running.Run(folder)
    _warn_of_jump(before.training, settings, saved["step"], folder)
    setup = setup or running.prepare(recipe, running.open_data(recipe), folder)
    _refuse_other_labels(setup.spec, checkpoint)
    called = callbacks(setup)
    state = running.start(setup, saved, overrides)
    state.restore(checkpoint)
    state.ended = state.ended if ended else ""
    logger.info("continuing %s", checkpoint.absolute())
    if saved.get("draws", 1) < DRAWS:
        line = "an earlier fromnoise drew the random numbers up to step %d: later ones differ"
        logger.warning(line, state.step)
    if saved["data_fingerprint"] != setup.images.fingerprint:
        state.held_out, state.held_out_count = [], 0  # those of other images
        logger.warning(
            "the images are not those of step %d: there are %d now, and their order differs",
            *(state.step, len(setup.images)),
        )
    return running.fit_run(setup, state, called)


def _check_draws(saved: Mapping[str, Any], checkpoint: Path) -> None:
    """Raise ConfigError if a later version drew the random numbers."""
    draws = saved.get("draws", 1)
    if draws > DRAWS:
        raise ConfigError(
            f"{checkpoint} has draws = {draws}, but this fromnoise supports only {DRAWS}. "
            "Install a newer fromnoise."
        )


def _require_new(folder: Path) -> None:
    """Raise ValueError if `folder` is a run or has other files."""
    if (folder / RECIPE_FILE).exists():
        raise ConfigError(
            f"{folder} is a run already. To continue it: fromnoise resume {folder}. To start "
            "another run: --out with a new folder."
        )
    checkpoints.require_empty_folder(folder)


def callbacks(setup: Setup) -> list[Callback]:
    """Return the preview, the score if `evaluation.every` is set, and the result.

    Raises the errors of `open_score_extractor`.
    """
    recipe, spec, images, folder, _ = setup
    settings, count = recipe.evaluation, recipe.training.preview_images

    def preview(state, *_: object) -> None:
        draw_pictures(state, spec, folder, count=count)

    made = partial(pictures_made, folder)
    called = [Callback("preview", recipe.training.preview_every, preview, made)]

    def result(state, *_: object) -> None:
        draw_result(state, setup)

    last = Callback("result", math.inf, result, lambda step: result_made(folder))
    if settings.every:
        extractor = open_score_extractor(settings, spec, recipe.training.device)

        def evaluate(state, *others) -> None:
            score(state, spec, images, settings, extractor, *others)

        made = partial(scored, folder)
        called.append(Callback("score", settings.every, evaluate, made, slow=True))
    return [*called, last]


def _refuse_changes(before: Recipe, recipe: Recipe, folder: Path) -> None:
    """Raise ConfigError for a change of a fixed key since the checkpoint was saved."""
    was, now = (dotted(r.model_dump(mode="json")) for r in (before, recipe))
    for key in sorted(was.keys() | now.keys()):
        fixed = key.startswith(FIXED) and key not in NOT_FIXED
        if fixed and was.get(key) != now.get(key):
            raise ConfigError(
                f"{key} = {now.get(key)!r}, but {folder} was trained with {was.get(key)!r}. "
                "Resume cannot change it. Start another run with train."
            )


def _warn_of_jump(before: Training, now: Training, step: int, folder: Path) -> None:
    """Warn if another number of steps changes the learning rate of the next step, `step`."""
    old, new = learning_rate(before, min(step, before.steps - 1)), learning_rate(now, step)
    falls = now.lr_schedule != "constant" and step >= now.warmup_steps
    if not falls or now.steps == before.steps or 0.99 < new / old < 1.01:
        return
    logger.warning(
        "training.steps = %d instead of %d moves the end of the %s decay: the learning rate "
        "continues at %.3g instead of %.3g. To keep %.3g until the end: fromnoise resume %s "
        "steps=%d lr_schedule=constant learning_rate=%.3g",
        *(now.steps, before.steps, now.lr_schedule, new, old, old, folder, now.steps, old),
    )


def _refuse_other_labels(spec: ModelSpec, checkpoint: Path) -> None:
    """Raise ConfigError unless each column of the conditioning is still the same label."""
    file = checkpoint / FILE_OF["raw"]
    before = read_spec(
        checkpoints.read_tensors(file, metadata_only=True).metadata, file
    ).label_names
    if tuple(map(label_name, before)) != spec.label_names:
        raise ConfigError(
            f"the labels are now {', '.join(spec.label_names) or 'none'}, but {checkpoint} was "
            f"trained with {', '.join(before) or 'none'}. Restore the names, or start another run "
            "with train."
        )
