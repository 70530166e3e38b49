"""Prepare the training of a run folder, start it, and load its model."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fromnoise.checkpoints import atomic_file, newest_checkpoint, read_state, require_room, size_of
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe, parse_recipe
from fromnoise.config.schema import Recipe
from fromnoise.data import ImageSet, detect_source
from fromnoise.data.arrays import is_in_memory, store_images
from fromnoise.data.augmentation import SMALLEST, columns_of
from fromnoise.data.dataset import open_with_log
from fromnoise.data.holdout import split_holdout
from fromnoise.diffusion import Denoiser
from fromnoise.model.model import Model, build_denoiser, load, select_device
from fromnoise.model.names import is_name
from fromnoise.model.precision import without_tf32
from fromnoise.model.spec import RECIPE_FILE, ModelSpec, Weights
from fromnoise.networks.layers import Dropout
from fromnoise.networks.recomputation import regions_of
from fromnoise.rng import seed_of
from fromnoise.training import precision
from fromnoise.training.choices import FITTED, choices_for, log_choices
from fromnoise.training.loop import Callback, Setup, fit
from fromnoise.training.start_from import load_initial_weights
from fromnoise.training.state import TrainingState
from fromnoise.training.step import keep_freed_memory
from fromnoise.training.trackers import check_trackers

MANY = 10**6  # steps, assumed while a length in minutes is not converted: it pays to compile
logger = logging.getLogger("fromnoise")


@dataclass(frozen=True)
class Run:
    """A run folder: recipe.yaml, log.jsonl, checkpoints/, previews/."""

    folder: Path
    stopped_by: str | None = None  # the name of a signal

    def recipe(self) -> Recipe:
        """Return the resolved recipe."""
        return load_recipe(self.folder / RECIPE_FILE)

    @property
    def finished(self) -> bool:
        """Return whether a checkpoint has the last step; false after a stop signal."""
        newest, _ = newest_checkpoint(self.folder / "checkpoints")
        if newest is None:
            return False
        state = read_state(newest)
        return bool(state.get("ended")) or state["step"] >= self.recipe().training.steps

    def model(self, weights: Weights = "ema") -> Model:
        """Load the model of the newest checkpoint."""
        return load(self.folder, weights=weights)


def resolve_recipe(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path | None,
    data: Any,
    overrides: Mapping[str, Any] | None,
) -> tuple[Recipe, Path]:
    """Return the recipe with the other arguments of `train` applied, and the run folder.

    The recipe `folder` is fitted to its images; see `choices.py`.
    """
    if isinstance(recipe, Mapping):
        parsed, name = parse_recipe(dict(recipe), "the given recipe", overrides), "run"
    else:
        parsed, name = load_recipe(recipe, overrides), Path(recipe).stem
    if is_in_memory(data):
        data = store_images(data)
    if data is not None:
        source = detect_source(data, named=parsed.data.source)
        parsed = _with(parsed, "data", path=Path(data), source=source)
    if recipe == FITTED and parsed.data.path is not None:
        chosen = log_choices(choices_for(parsed, open_data(parsed)), overrides or {})
        where = {"data.path": str(parsed.data.path), "data.source": parsed.data.source}
        parsed = load_recipe(FITTED, {**chosen, **(overrides or {}), **where})
    return with_absolute_paths(parsed), Path(out) if out is not None else Path("runs") / name


def open_data(recipe: Recipe, *, download: bool = True) -> ImageSet:
    """Open the images of a recipe, and log what was skipped.

    Raises ValueError for a device or a package that is missing, before the images are decoded, and
    as `open_images`.
    """
    check_trackers(recipe.training.log_to)
    device = select_device(recipe.training.device)
    if recipe.training.noise_device == "device" and device.type != "cuda":
        raise ConfigError(
            f"training.noise_device = device needs CUDA, but the device is {device}. Set "
            "training.noise_device=cpu."
        )
    options = recipe.data.model_dump(exclude={"flip", "labels", "holdout"})
    return open_with_log(download=download, **options)


def prepare(recipe: Recipe, images: ImageSet, folder: Path) -> Setup:
    """Return the parts of a training on these images.

    Epochs become steps, unless there are no images. Minutes become steps later, by
    `budget.recipe_within_budget`.
    """
    settings, held_out = recipe.training, None
    if recipe.data.holdout is not None and images.fingerprint:  # they are decoded
        images, held_out = split_holdout(images, recipe.data.holdout)
        logger.info("%d images are held out, %d are trained on", len(held_out), len(images))
    count = len(images)
    if recipe.data.labels and images.labels is None:
        raise ConfigError(
            f"data.labels = true, but {images.source} has no labels. Make one sub-folder for each "
            "class, put a labels.csv beside the images, or set data.labels = false."
        )
    size = images.images.shape[2:]
    if settings.augment and min(size) < SMALLEST:
        raise ConfigError(
            f"training.augment = {settings.augment:g} needs images of at least {SMALLEST}x"
            f"{SMALLEST}, but these are {size[0]}x{size[1]}. Set training.augment=0."
        )
    if settings.epochs is not None and count:
        steps = max(1, round(settings.epochs * count / settings.batch_size))
        logger.info("%g epochs of %d images are %d steps", settings.epochs, count, steps)
        recipe = recipe.with_steps(steps)
    elif settings.steps:
        recipe = recipe.with_steps(settings.steps)
    spec = ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=images.images.shape[1],
        size=size,
        fit=recipe.data.fit,
        background=recipe.data.background,
        white=recipe.data.white,
        depth=recipe.data.depth,
        range=(recipe.data.range or (0, 1)) if recipe.data.depth == "float" else None,
        label_names=images.label_names if recipe.data.labels else (),
        augment_columns=columns_of(settings.augmentations) if settings.augment else (),
        label_dropout=settings.label_dropout if recipe.data.labels else None,
        source=images.source,
    )
    return Setup(recipe, spec, images, folder, held_out)


def _with(recipe: Recipe, section: str, **changes: Any) -> Recipe:
    updated = getattr(recipe, section).model_copy(update=changes)
    return recipe.model_copy(update={section: updated})


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, so that a run can be resumed from any folder."""
    return recipe.with_paths(lambda p: p if is_name(p) else p.expanduser().absolute())


def _computation(
    setup: Setup, denoiser: Denoiser, saved: Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> precision.Computation:
    """Return the computation: that of the checkpoint if there is one, except for overrides.

    With `training.compile: auto`, a run that cannot be compiled continues without.
    """
    recipe, spec, settings = setup.recipe, setup.spec, setup.recipe.training
    device, done = next(denoiser.parameters()).device, saved["step"] if saved else 0
    left = settings.steps - done if settings.steps else MANY
    computation = precision.choose_computation(settings, denoiser, left)
    if saved and device.type != saved["device"]:
        logger.warning("the device is not that of earlier steps: resume is not exact")
    elif saved:
        changed = {k for k in ("precision", "channels_last") if f"training.{k}" in overrides}
        changed |= {"compiled"} if "training.compile" in overrides else set()
        kept = {k: v for k, v in saved["computation"].items() if k not in changed}
        computation = computation._replace(**kept)
        if device.type == "cuda" and computation.precision == "fp32" and "tf32" not in saved:
            logger.warning("earlier steps rounded convolutions to TF32: resume is not exact")
    if computation.compiled:
        objective = recipe.diffusion.objective()
        part = settings.batch_size // settings.parts
        x0 = torch.zeros(part, spec.channels, *spec.size, device=device)
        cond = torch.zeros(part, spec.cond_dim, device=device) if spec.cond_dim else None
        try:
            with without_tf32():
                precision.check_compiles(computation, denoiser, objective, x0, cond)
        except ConfigError as error:
            if settings.compile is True:
                raise
            logger.warning("not compiled: %s", error)
            computation = computation._replace(compiled=False)
    return computation


def start(
    setup: Setup,
    saved: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    computation: precision.Computation | None = None,
) -> TrainingState:
    """Return the state before step 0. The initial weights are a function of the seed.

    saved: state.json of the checkpoint from which the run is resumed, with these overrides.
    computation: None to choose one.
    """
    spec, settings = setup.spec, setup.recipe.training
    device = select_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed_of(settings.seed, "weights"))
    denoiser = build_denoiser(spec).to(device)
    if saved is None and settings.start_from is not None:
        load_initial_weights(denoiser, spec, settings.start_from)
    if settings.checkpoint_gradients and not regions_of(denoiser.network):
        raise ConfigError(
            f"training.checkpoint_gradients = true, but {type(denoiser.network).__name__} has no "
            "`regions` to recompute. Define them, or set training.parts."
        )
    computation = computation or _computation(setup, denoiser, saved, overrides or {})
    if settings.parts > 1 and (kind := depends_on_parts(denoiser.network)):
        logger.warning(
            "the network has %s, so training.parts = %d changes its output", kind, settings.parts
        )
    return TrainingState.start(denoiser, settings, computation)


def depends_on_parts(network: nn.Module) -> str:
    """Return the kind of layer whose output depends on the part's other images, or nothing."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            return type(layer).__name__
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if drops and not isinstance(layer, Dropout):
            return f"torch's {type(layer).__name__}"
    return ""


def fit_run(setup: Setup, state: TrainingState, callbacks: Sequence[Callback]) -> Run:
    """Write recipe.yaml and train."""
    folder = setup.folder
    needed = size_of(*state.files(setup.spec).values())
    if not state.optimizer.state:  # the two moments of Adam, which do not exist yet
        needed += 2 * sum(p.nbytes for p in state.denoiser.network.parameters())
    require_room(folder / "checkpoints", needed)
    write_recipe(setup)
    count = sum(p.numel() for p in state.denoiser.parameters())
    logger.info("%s parameters. The run is in %s", f"{count:,}", folder.absolute())
    device = next(state.denoiser.parameters()).device
    logger.info("computing on %s in %s", device, state.computation)
    with computing(state):
        stopped_by = fit(setup, state, callbacks)
    return Run(folder, stopped_by)


def write_recipe(setup: Setup) -> None:
    """Write recipe.yaml."""
    with atomic_file(setup.folder / RECIPE_FILE) as writing:
        writing.write_text(setup.recipe.to_yaml(), encoding="utf-8")


@contextmanager
def computing(state: TrainingState) -> Iterator[None]:
    """Configure torch for the steps of a training.

    cuDNN times its kernels once for each shape. All steps have the same shapes, except with
    self-conditioning, where the number of images in the first pass varies.
    """
    benchmark = not state.denoiser.self_conditioning
    with without_tf32(benchmark=benchmark), precision.all_versions(state.computation):
        yield
