"""Train and resume: the training, with the doctor's warnings, previews and scores in its loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromnoise.doctor.doctor import log_warnings
from fromnoise.evaluation.training_score import open_score_extractor, score
from fromnoise.training import run as training
from fromnoise.training.loop import Callback
from fromnoise.training.previews import draw_pictures
from fromnoise.training.run import Run, Setup


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Train a recipe into a new run folder and return it.

    recipe: the name of a shipped recipe, a YAML file, or a dict. out: `runs/NAME` by default.
    data: images that replace those of the recipe; the kind of source is detected.
    overrides: dotted keys, as in {"training.steps": 500}.
    Raises ValueError for a mistake in these, before anything is written.
    """
    settings = {"out": out, "data": data, "overrides": overrides}
    return training.train(recipe, callbacks=callbacks, before_training=log_warnings, **settings)


def resume(folder: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Run:
    """Resume a run from its newest whole checkpoint, exactly as if it had never stopped.

    overrides: dotted keys. The keys in `training.run.FIXED` cannot change.
    Raises ValueError if `folder` is not a run, or for such a change.
    """
    return training.resume(folder, overrides=overrides, callbacks=callbacks)


def callbacks(setup: Setup) -> list[Callback]:
    """Return the previews, and the score if `evaluation.every` is set. Raises as the extractor."""
    recipe, spec, images, folder = setup
    settings, count = recipe.evaluation, recipe.training.preview_images

    def preview(state, log, stop) -> None:
        draw_pictures(state, spec, folder, count=count)

    previews = Callback("preview", recipe.training.preview_every, preview)
    if not settings.every:
        return [previews]
    extractor = open_score_extractor(settings, spec, recipe.training.device)

    def evaluate(state, log, stop) -> None:
        score(state, spec, images, settings, extractor, log, stop)

    return [previews, Callback("score", settings.every, evaluate, slow=True)]
