"""A run is a folder. Here it is begun, continued and looked at."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fromnoise.checkpoints import (
    fsync,
    newest_checkpoint,
    read_state,
    read_tensors,
    require_empty_folder,
)
from fromnoise.config.errors import ConfigError
from fromnoise.config.overrides import dotted
from fromnoise.config.recipe import load_recipe, parse_recipe
from fromnoise.config.schema import Recipe
from fromnoise.data import ImageSet, detect_source, open_images
from fromnoise.data.errors import NotAvailable
from fromnoise.data.loader import load_batch, to_float
from fromnoise.doctor.doctor import SECONDS, check, facts_of, spec_without_images, warn
from fromnoise.doctor.findings import Finding
from fromnoise.evaluation.features import Extractor
from fromnoise.evaluation.training_score import open_scorer
from fromnoise.model.model import Model, build_denoiser, load, select_device
from fromnoise.model.spec import FILE_OF, ModelSpec, Weights, read_spec
from fromnoise.progress import progress_bar
from fromnoise.rng import seed_of
from fromnoise.training.allocation import keep_freed_memory
from fromnoise.training.compiling import choose_compiled
from fromnoise.training.loop import fit
from fromnoise.training.precision import Computation, choose_computation
from fromnoise.training.start_from import load_initial_weights
from fromnoise.training.state import TrainingState

RECIPE_FILE = "recipe.yaml"
FIXED = (  # by the start
    "data.",
    "network.",
    "diffusion.",
    "training.seed",
    "training.batch_size",
    "training.ema_lengths",
)
NOT_FIXED = ("data.path", "data.strict")  # the images may have moved
logger = logging.getLogger("fromnoise")


@dataclass(frozen=True)
class Run:
    """A run folder: recipe.yaml, log.jsonl, checkpoints/, previews/."""

    folder: Path

    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(self.folder / RECIPE_FILE)

    @property
    def finished(self) -> bool:
        """Whether the last step of the recipe has been trained; not so after a signal."""
        newest, _ = newest_checkpoint(self.folder / "checkpoints")
        return newest is not None and read_state(newest)["step"] >= self.recipe().training.steps

    def model(self, weights: Weights = "ema") -> Model:
        """The model of the newest checkpoint."""
        return load(self.folder, weights=weights)


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Train a recipe into a new run folder and return it.

    recipe: a shipped name, a YAML file, or the same as a dict. out: `runs/NAME` by default.
    data: images to train on instead of the recipe's; the kind of source is found out.
    overrides: dotted keys, as in {"training.steps": 500}.
    Raises ValueError, before anything is written, for anything that is wrong with these.
    """
    parsed, folder = _resolved(recipe, out, data, overrides)
    _refuse_existing(folder)

    images = _open(parsed)
    parsed = _with_steps(parsed, len(images))
    spec = _spec(parsed, images)
    scorer = open_scorer(parsed.evaluation, spec, parsed.training.device)
    state = _start(parsed, spec, images, weights_from=parsed.training.start_from)
    warn(
        parsed,
        spec,
        state.denoiser,
        num_images=len(images),
        folder=folder,
        computation=state.computation,
    )

    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / RECIPE_FILE, parsed.to_yaml())
    return _fit(Run(folder), state, parsed, spec, images, scorer)


def diagnose(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """What a training would cost and come to on this machine, in about 20 seconds; none is begun.

    Arguments and errors as in `train`. Nothing is downloaded: of images that are not here, what is
    not known is said to be so.
    """
    parsed, folder = _resolved(recipe, out, data, overrides)
    try:
        images = _open(parsed, download=False)
    except NotAvailable:
        spec, count = spec_without_images(parsed)
    else:
        spec, count = _spec(parsed, images), len(images)
    if count is not None:
        parsed = _with_steps(parsed, count)
    denoiser = build_denoiser(spec).to(select_device(parsed.training.device))
    facts = facts_of(parsed, spec, denoiser, num_images=count, folder=folder, seconds=SECONDS)
    return check(facts)


def resume(folder: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Run:
    """Continue a run from its newest whole checkpoint, exactly as if it had never stopped.

    overrides: dotted keys. What the weights depend on (FIXED) cannot change any more.
    Raises ValueError if `folder` is no run, or for such a change.
    """
    run = Run(Path(folder))
    if not (run.folder / RECIPE_FILE).is_file():
        raise ConfigError(f"{run.folder.absolute()} is no run: it has no {RECIPE_FILE}")
    recipe = _with_absolute_paths(load_recipe(run.folder / RECIPE_FILE, overrides))
    checkpoint, damaged = newest_checkpoint(run.folder / "checkpoints")
    for line in damaged:
        logger.warning("%s; using an earlier checkpoint", line)
    saved = read_state(checkpoint) if checkpoint else None
    images = None
    if recipe.training.epochs is not None:  # said anew: how many steps they are, the images tell
        images = _open(recipe)
        recipe = _with_steps(recipe, len(images))
    if saved is not None:
        _refuse_changes(recipe, saved["recipe"], run.folder)
        if saved["step"] >= recipe.training.steps:
            logger.info(
                "%s is complete at step %d and was left as it is; to train on, give training.steps "
                "or training.epochs a larger number",
                run.folder.absolute(),
                saved["step"],
            )
            return run

    images = _open(recipe) if images is None else images
    spec = _spec(recipe, images)
    scorer = open_scorer(recipe.evaluation, spec, recipe.training.device)
    if checkpoint is None or saved is None:
        logger.warning("%s has no whole checkpoint: starting at step 0", run.folder.absolute())
        state = _start(recipe, spec, images, weights_from=recipe.training.start_from)
    else:
        asked = set(overrides or {})
        chosen_anew = {"training.precision", "training.channels_last"} & asked
        same_device = select_device(recipe.training.device).type == saved["device"]
        if not same_device:
            logger.warning("resumed on another device than before: not bit for bit the same")
        _refuse_other_labels(spec, checkpoint)
        keep = same_device and not chosen_anew
        computation = Computation(**saved["computation"]) if keep else None
        if computation and "training.compile" in asked and recipe.training.compile != "auto":
            computation = computation._replace(compiled=recipe.training.compile)
        state = _start(recipe, spec, images, computation=computation, done=saved["step"])
        state.restore(checkpoint)
        logger.info("continuing %s", checkpoint.absolute())
        if saved["data_fingerprint"] != images.fingerprint:
            logger.warning(
                "the images are not those of step %d: there are %d now, in another order of epochs",
                state.step,
                len(images),
            )
    _write(run.folder / RECIPE_FILE, recipe.to_yaml())
    return _fit(run, state, recipe, spec, images, scorer)


def _resolved(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path | None,
    data: str | Path | None,
    overrides: Mapping[str, Any] | None,
) -> tuple[Recipe, Path]:
    """The recipe with what was said beside it, and the folder of its run."""
    if isinstance(recipe, Mapping):
        parsed, name = parse_recipe(dict(recipe), "the given recipe", overrides), "run"
    else:
        parsed, name = load_recipe(recipe, overrides), Path(recipe).stem
    if data is not None:
        source = detect_source(data, named=parsed.data.source)
        there = {"path": Path(data), "source": source}
        parsed = parsed.model_copy(update={"data": parsed.data.model_copy(update=there)})
    folder = Path(out) if out is not None else Path("runs") / name
    return _with_absolute_paths(parsed), folder


def _refuse_changes(recipe: Recipe, trained: Mapping[str, Any], folder: Path) -> None:
    """Compare with the recipe that the checkpoint was trained with."""
    completed = parse_recipe(trained, str(folder))  # keys that are newer than the checkpoint
    before, now = (dotted(r.model_dump(mode="json")) for r in (completed, recipe))
    for key in sorted(before.keys() | now.keys()):
        fixed = key.startswith(FIXED) and key not in NOT_FIXED
        if fixed and before.get(key) != now.get(key):
            raise ConfigError(
                f"{key} = {now.get(key)!r}, but {folder} was trained with {before.get(key)!r}: "
                "resume cannot change it; begin another run with train"
            )


def _refuse_other_labels(spec: ModelSpec, checkpoint: Path) -> None:
    """Column k of a condition must stay the same label."""
    file = checkpoint / FILE_OF["raw"]
    before = read_spec(read_tensors(file).metadata, file).label_names
    if before != spec.label_names:
        raise ConfigError(
            f"the labels are now {', '.join(spec.label_names) or 'none'}, but {checkpoint} was "
            f"trained with {', '.join(before) or 'none'}; resume cannot change them: put the names "
            "back, or begin another run with train"
        )


def _refuse_existing(folder: Path) -> None:
    if (folder / RECIPE_FILE).exists():
        raise ConfigError(
            f"{folder} is a run already; to continue it: fromnoise resume {folder}; "
            "to begin another: --out with a new folder"
        )
    require_empty_folder(folder)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """A run is resumed from any working directory."""

    def absolute(path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    data = recipe.data.model_copy(update={"path": absolute(recipe.data.path)})
    start_from = {"start_from": absolute(recipe.training.start_from)}
    training = recipe.training.model_copy(update=start_from)
    classifier = {"classifier": absolute(recipe.evaluation.classifier)}
    evaluation = recipe.evaluation.model_copy(update=classifier)
    changes = {"data": data, "training": training, "evaluation": evaluation}
    return recipe.model_copy(update=changes)


def _with_steps(recipe: Recipe, num_images: int) -> Recipe:
    """The recipe with its epochs as a number of steps."""
    settings = recipe.training
    if settings.epochs is None:
        return recipe
    steps = max(1, round(settings.epochs * num_images / settings.batch_size))
    logger.info("%g epochs of %d images are %d steps", settings.epochs, num_images, steps)
    settings = settings.model_copy(update={"steps": steps, "epochs": None})
    return recipe.model_copy(update={"training": settings})


def _open(recipe: Recipe, *, download: bool = True) -> ImageSet:
    wanted = recipe.data.model_dump(exclude={"source", "path", "flip", "labels"})
    with progress_bar("decoding") as progress:
        images = open_images(
            recipe.data.source,
            recipe.data.path,
            download=download,
            progress=progress,
            **wanted,
        )
    _, channels, height, width = images.images.shape
    logger.info(
        "%s: %d images, %d channels, %dx%d", images.source, len(images), channels, height, width
    )
    for line in images.skipped:
        logger.warning("skipped %s", line)
    if images.skipped:
        logger.warning("%d files could not be read and were skipped", len(images.skipped))
    return images


def _spec(recipe: Recipe, images: ImageSet) -> ModelSpec:
    _, channels, height, width = images.images.shape
    if recipe.data.labels and images.labels is None:
        raise ConfigError(
            f"data.labels = true, but {images.source} has no labels; make one sub-folder for each "
            "class, put a labels.csv beside the images, or set data.labels = false"
        )
    return ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=channels,
        size=(height, width),
        fit=recipe.data.fit,
        background=recipe.data.background,
        label_names=images.label_names if recipe.data.labels else (),
        label_dropout=recipe.training.label_dropout if recipe.data.labels else None,
        source=images.source,
    )


def _start(
    recipe: Recipe,
    spec: ModelSpec,
    images: ImageSet,
    *,
    weights_from: Path | None = None,
    computation: Computation | None = None,
    done: int = 0,
) -> TrainingState:
    """Build everything before step 0; the first weights are a function of the seed.

    computation: what it is known to be, as where it was chosen before; done: steps trained already.
    """
    settings = recipe.training
    device = select_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed_of(settings.seed, "weights"))
    denoiser = build_denoiser(spec).to(device)
    if weights_from is not None:
        load_initial_weights(denoiser, spec, weights_from)
    if computation is None or computation.compiled:
        part = -(-settings.batch_size // settings.accumulation)
        x0 = to_float(load_batch(images, seed=settings.seed, step=0, batch_size=part).to(device))
        objective = recipe.diffusion.objective()
        cond = torch.zeros(part, len(spec.label_names), device=device) if spec.label_names else None
        given = denoiser, objective, x0, cond
        chosen = computation is not None
        computation = computation or choose_computation(settings, *given)
        left = settings.steps - done
        compiled = choose_compiled(settings, computation, *given, steps=left, chosen=chosen)
        computation = computation._replace(compiled=compiled)
        logger.info("computing on %s in %s", device, computation)
    return TrainingState.start(denoiser, settings, computation)


def _fit(
    run: Run,
    state: TrainingState,
    recipe: Recipe,
    spec: ModelSpec,
    images: ImageSet,
    scorer: Extractor | None,
) -> Run:
    count = sum(p.numel() for p in state.denoiser.parameters())
    logger.info("%s parameters; the run is in %s", f"{count:,}", run.folder.absolute())
    # of CUDA: every step has the same shapes, but where only some of the images get a first guess
    torch.backends.cudnn.benchmark = not state.denoiser.self_conditioning
    fit(state, recipe, spec, images, run.folder, scorer)
    return run


def _write(path: Path, text: str) -> None:
    replacement = path.with_name(f".{path.name}.writing")
    replacement.write_text(text, encoding="utf-8")
    fsync(replacement)
    os.replace(replacement, path)
