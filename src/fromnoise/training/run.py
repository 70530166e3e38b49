"""A run folder: start a training in it, resume it, load its model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fromnoise.checkpoints import (
    atomic_file,
    newest_checkpoint,
    read_state,
    read_tensors,
    require_empty_folder,
)
from fromnoise.config.errors import ConfigError
from fromnoise.config.overrides import dotted
from fromnoise.config.recipe import load_recipe, parse_recipe
from fromnoise.config.schema import Recipe, Training
from fromnoise.data import ImageSet, detect_source
from fromnoise.data.dataset import open_with_log
from fromnoise.diffusion import Denoiser
from fromnoise.model.model import Model, build_denoiser, load, select_device
from fromnoise.model.precision import without_tf32
from fromnoise.model.spec import FILE_OF, ModelSpec, Weights, read_spec
from fromnoise.rng import seed_of
from fromnoise.training.compiling import all_versions, check_compiles
from fromnoise.training.log import check_tensorboard
from fromnoise.training.loop import Callback, fit
from fromnoise.training.optimizer import learning_rate
from fromnoise.training.precision import Computation, choose_computation
from fromnoise.training.start_from import load_initial_weights
from fromnoise.training.state import TrainingState
from fromnoise.training.step import keep_freed_memory

RECIPE_FILE = "recipe.yaml"
FIXED = (  # when a run is resumed
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
        """Return the resolved recipe."""
        return load_recipe(self.folder / RECIPE_FILE)

    @property
    def finished(self) -> bool:
        """Return whether a checkpoint has the last step; false after a stop signal."""
        newest, _ = newest_checkpoint(self.folder / "checkpoints")
        return newest is not None and read_state(newest)["step"] >= self.recipe().training.steps

    def model(self, weights: Weights = "ema") -> Model:
        """Load the model of the newest checkpoint."""
        return load(self.folder, weights=weights)


class Setup(NamedTuple):
    """The fixed parts of a training. recipe: with its epochs as steps. folder: of the run."""

    recipe: Recipe
    spec: ModelSpec
    images: ImageSet
    folder: Path


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    callbacks: Callable[[Setup], Sequence[Callback]] = lambda setup: (),
    before_training: Callable[[Setup, TrainingState], None] = lambda setup, state: None,
) -> Run:
    """Train a recipe into a new run folder, as `fromnoise.train`.

    callbacks: makes the callbacks of the loop; an error here comes before anything is written.
    before_training: called before the run folder is made.
    """
    resolved, folder = resolve_recipe(recipe, out, data, overrides)
    check_tensorboard(resolved.training)
    if (folder / RECIPE_FILE).exists():
        raise ConfigError(
            f"{folder} is a run already. To continue it: fromnoise resume {folder}. To start "
            "another run: --out with a new folder."
        )
    require_empty_folder(folder)
    images = open_data(resolved)
    resolved = with_steps(resolved, len(images))
    setup = Setup(resolved, model_spec(resolved, images), images, folder)
    called = callbacks(setup)
    state = _start(setup)
    before_training(setup, state)
    folder.mkdir(parents=True, exist_ok=True)
    return _fit(setup, state, called)


def resume(
    folder: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    callbacks: Callable[[Setup], Sequence[Callback]] = lambda setup: (),
) -> Run:
    """Resume a run from its newest whole checkpoint, as `fromnoise.resume`.

    callbacks: as in `train`.
    """
    folder = Path(folder)
    require_run(folder)
    recipe = _with_absolute_paths(load_recipe(folder / RECIPE_FILE, overrides))
    check_tensorboard(recipe.training)
    checkpoint, damaged = newest_checkpoint(folder / "checkpoints")
    for line in damaged:
        logger.warning("%s. Using an earlier checkpoint", line)
    saved = read_state(checkpoint) if checkpoint else None
    images = None
    if recipe.training.epochs is not None:  # a new override: the images give its number of steps
        images = open_data(recipe)
        recipe = with_steps(recipe, len(images))
    if saved is not None:
        before = parse_recipe(saved["recipe"], str(folder))  # adds keys that are newer
        _refuse_changes(before, recipe, folder)
        if saved["step"] >= recipe.training.steps:
            logger.info(
                "%s already finished at step %d. To train longer, increase training.steps or "
                "training.epochs",
                *(folder.absolute(), saved["step"]),
            )
            return Run(folder)
        _warn_of_jump(before.training, recipe.training, saved["step"], folder)

    images = open_data(recipe) if images is None else images
    setup = Setup(recipe, model_spec(recipe, images), images, folder)
    called = callbacks(setup)
    if checkpoint is None or saved is None:
        logger.warning("%s has no whole checkpoint. Starting at step 0", folder.absolute())
        state = _start(setup)
    else:
        _refuse_other_labels(setup.spec, checkpoint)
        state = _start(setup, saved, overrides)
        state.restore(checkpoint)
        logger.info("continuing %s", checkpoint.absolute())
        if saved["data_fingerprint"] != images.fingerprint:
            logger.warning(
                "the images are not those of step %d: there are %d now, and their order differs",
                *(state.step, len(images)),
            )
    return _fit(setup, state, called)


def require_run(folder: Path) -> None:
    """Raise ConfigError if `folder` is not a run."""
    if not (folder / RECIPE_FILE).is_file():
        raise ConfigError(
            f"{folder.absolute()} is not a run: it has no {RECIPE_FILE}. Give a run folder."
        )


def resolve_recipe(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path | None,
    data: str | Path | None,
    overrides: Mapping[str, Any] | None,
) -> tuple[Recipe, Path]:
    """Return the recipe with the other arguments of `train` applied, and the run folder."""
    if isinstance(recipe, Mapping):
        parsed, name = parse_recipe(dict(recipe), "the given recipe", overrides), "run"
    else:
        parsed, name = load_recipe(recipe, overrides), Path(recipe).stem
    if data is not None:
        source = detect_source(data, named=parsed.data.source)
        parsed = _with(parsed, "data", path=Path(data), source=source)
    return _with_absolute_paths(parsed), Path(out) if out is not None else Path("runs") / name


def open_data(recipe: Recipe, *, download: bool = True) -> ImageSet:
    """Open the images of a recipe, and log what was skipped. Raises as `open_images`."""
    options = recipe.data.model_dump(exclude={"flip", "labels"})
    return open_with_log(download=download, **options)


def with_steps(recipe: Recipe, num_images: int) -> Recipe:
    """Return the recipe with its epochs as a number of steps."""
    settings = recipe.training
    if settings.epochs is None:
        return recipe
    steps = max(1, round(settings.epochs * num_images / settings.batch_size))
    logger.info("%g epochs of %d images are %d steps", settings.epochs, num_images, steps)
    return _with(recipe, "training", steps=steps, epochs=None)


def model_spec(recipe: Recipe, images: ImageSet) -> ModelSpec:
    """Return the spec of the model that the recipe trains on these images."""
    _, channels, height, width = images.images.shape
    if recipe.data.labels and images.labels is None:
        raise ConfigError(
            f"data.labels = true, but {images.source} has no labels. Make one sub-folder for each "
            "class, put a labels.csv beside the images, or set data.labels = false."
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
    """Warn if another number of steps moves the learning rate of the next step, number `step`."""
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
    before = read_spec(read_tensors(file).metadata, file).label_names
    if before != spec.label_names:
        raise ConfigError(
            f"the labels are now {', '.join(spec.label_names) or 'none'}, but {checkpoint} was "
            f"trained with {', '.join(before) or 'none'}. Restore the names, or start another run "
            "with train."
        )


def _with(recipe: Recipe, section: str, **changes: Any) -> Recipe:
    updated = getattr(recipe, section).model_copy(update=changes)
    return recipe.model_copy(update={section: updated})


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, so that a run can be resumed from any folder."""
    keys = {"data": "path", "training": "start_from", "evaluation": "classifier"}
    for section, key in keys.items():
        if path := getattr(getattr(recipe, section), key):
            recipe = _with(recipe, section, **{key: path.expanduser().absolute()})
    return recipe


def _computation(
    setup: Setup, denoiser: Denoiser, saved: Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> Computation:
    """Return the computation: of the checkpoint if there is one, except for overrides.

    A run that was compiled continues without where that is impossible, by `auto`.
    """
    recipe, spec, settings = setup.recipe, setup.spec, setup.recipe.training
    device, done = next(denoiser.parameters()).device, saved["step"] if saved else 0
    computation = choose_computation(settings, denoiser, settings.steps - done)
    if saved and device.type != saved["device"]:
        logger.warning("resumed on another device than before: not bit for bit the same")
    elif saved:
        changed = {k for k in ("precision", "channels_last") if f"training.{k}" in overrides}
        changed |= {"compiled"} if "training.compile" in overrides else set()
        kept = {k: v for k, v in saved["computation"].items() if k not in changed}
        computation = computation._replace(**kept)
        if device.type == "cuda" and computation.precision == "fp32" and "tf32" not in saved:
            logger.warning("earlier steps rounded convolutions to TF32: not bit for bit the same")
    if computation.compiled:
        part = -(-settings.batch_size // settings.accumulation)
        x0 = torch.zeros(part, spec.channels, *spec.size, device=device)
        cond = torch.zeros(part, len(spec.label_names), device=device) if spec.label_names else None
        try:
            with without_tf32():
                check_compiles(computation, denoiser, recipe.diffusion.objective(), x0, cond)
        except ConfigError as error:
            if settings.compile is True:
                raise
            logger.warning("not compiled: %s", error)
            computation = computation._replace(compiled=False)
    logger.info("computing on %s in %s", device, computation)
    return computation


def _start(
    setup: Setup, saved: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> TrainingState:
    """Return the state before step 0. The initial weights are a function of the seed.

    saved: the state.json of the checkpoint that a run is resumed from, with these overrides.
    """
    spec, settings = setup.spec, setup.recipe.training
    device = select_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed_of(settings.seed, "weights"))
    denoiser = build_denoiser(spec).to(device)
    if saved is None and settings.start_from is not None:
        load_initial_weights(denoiser, spec, settings.start_from)
    computation = _computation(setup, denoiser, saved, overrides or {})
    return TrainingState.start(denoiser, settings, computation)


def _fit(setup: Setup, state: TrainingState, callbacks: Sequence[Callback]) -> Run:
    """Write the recipe and train."""
    recipe, spec, images, folder = setup
    with atomic_file(folder / RECIPE_FILE) as writing:
        writing.write_text(recipe.to_yaml(), encoding="utf-8")
    count = sum(p.numel() for p in state.denoiser.parameters())
    logger.info("%s parameters. The run is in %s", f"{count:,}", folder.absolute())
    # cuDNN tries its kernels once for each shape. All steps have the same shapes, except with
    # self-conditioning, where the number of images that are estimated first varies
    benchmark = not state.denoiser.self_conditioning
    with without_tf32(benchmark=benchmark), all_versions(state.computation):
        fit(state, recipe, spec, images, folder, callbacks)
    return Run(folder)
