"""Sample to a folder: a PNG per seed, a grid, and other requested files."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import FolderNotEmpty, hash_of, require_room
from fromnoise.config.components import Component, check_component
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import RULE, SamplingConfig
from fromnoise.data.labels import describe_labels
from fromnoise.diffusion import Step
from fromnoise.generation.request import Conditioning, Request, composition_text, heading
from fromnoise.model.model import Model, last_x, to_uint8
from fromnoise.model.names import is_name
from fromnoise.model.precision import default_precision
from fromnoise.model.sampling import visited_timesteps
from fromnoise.model.spec import FILE_OF, run_folder_of
from fromnoise.pictures import (
    NOT_OURS,
    SHOWN_WHOLE,
    difference,
    grid_figure,
    grids_side_by_side,
    literal,
    samples_in,
    save_gif,
    save_npz,
    strip_figure,
    tile,
)
from fromnoise.rng import require_unique_seeds

GRID_IMAGES = 64  # in a grid and in the animation
STRIP_TIMES = 10
MAX_FRAMES = 60
LONGEST_NAME = 100  # bytes of the labels in a file name
Watch = Callable[[int, Step], None]
CLAMP_NAMES = {True: "clamped", False: "unclamped", "dynamic": "dynamic"}


@dataclass(frozen=True)
class Outputs:
    """The files to write beside the PNGs."""

    grid: bool = True  # of the first 64 images
    columns: int | None = None  # of the grid; None: about square
    npz: bool = False  # all images, see `save_npz`; always if a PNG cannot hold their channels
    gif: bool = False  # x_t from noise to image
    trajectory: bool = False  # a strip of x_t and of the predicted x_0
    times: Sequence[int] | None = None  # of the strip, the nearest visited ones; None: ten
    strips: int = 4  # images in the strip
    each_step: bool = False  # a grid of x_t and of the predicted x_0 at every t
    noise: bool = False  # x_T of the grid beside its images


def sample_to_folder(
    request: Request,
    seeds: Sequence[int],
    outputs: Outputs | None = None,
    *,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> list[Path]:
    """Sample one image per seed, and write each as a PNG named by its seed.

    Pictures of the trajectory show the first batch. overwrite: remove earlier samples from the
    folder. watch: called with the index of the batch's first image and each step; its exceptions
    end the sampling. Returns the PNGs in the order of the seeds, then all other files.

    Raises FolderNotEmpty for a folder with samples of another model, of other settings or labels,
    or of another program; ValueError for a seed that is repeated with the same labels, and for
    times that are out of range.
    """
    model, config, folder, conditioning, size = request
    outputs = outputs or Outputs()
    captions = conditioning.captions(model.spec.label_names, len(seeds))
    require_unique_seeds(seeds, captions)
    settings, title, names, metadata = _settings(request), _title(request), [], []
    for seed, text in zip(seeds, captions, strict=True):
        names.append(f"{seed:06d}-{_safe(text)}" if text else f"{seed:06d}")
        metadata.append(settings | {"seed": str(seed)} | ({"labels": text} if text else {}))
    counts = Counter(name.casefold() for name in names)  # of labels such as a/b and a:b
    for i, text in enumerate(captions):
        if counts[names[i].casefold()] > 1:
            names[i] += f" {_digest(text.encode())}"
    trajectory = Trajectory(request, outputs, title)
    replaced = _prepare(folder, metadata, overwrite=overwrite)

    def sampled() -> Iterator[Tensor]:
        for i in range(0, len(seeds), size):
            rows = slice(i, i + size)
            steps = model.denoise(seeds[rows], config, **conditioning.rows(rows))
            steps = steps if watch is None else _watched(steps, watch, i)
            x = last_x(steps) if i else trajectory.follow(model.start(seeds[rows]), steps)
            while replaced:  # not before the first batch has succeeded
                replaced.pop().unlink(missing_ok=True)
            yield x

    pngs, images = request.write(sampled(), names, metadata)
    first, files = model.spec.levels.to_bytes(images[:GRID_IMAGES]), trajectory.save()
    if outputs.grid:
        differ, columns = len(set(captions)) > 1, outputs.columns
        lines = [literal(text).replace(", ", "\n") for text in captions[:GRID_IMAGES]]
        shown = lines if differ else None
        path, above = folder / "grid.png", heading(title, captions)
        files.append(grid_figure(first, path, title=above, captions=shown, columns=columns))
    if outputs.noise:
        x_T = to_uint8(model.start(seeds[:GRID_IMAGES]), model.spec.data_range).numpy()
        panels = [("$x_T$, the starting noise", x_T), ("$x_0$, the image made from it", first)]
        path = folder / "noise.png"
        files.append(grids_side_by_side(panels, path, title=title, columns=outputs.columns))
    whole = model.spec.png_holds_all
    if outputs.npz or not whole:  # if PNGs cannot hold all, the only full copy of these seeds
        tag = "" if whole else f"-seeds-{seeds[0]}-{seeds[-1]}"
        files.append(save_npz(images, folder, conditioning.cond, tag=tag))
    return pngs + files


def _watched(steps: Iterable[Step], watch: Watch, first: int) -> Iterator[Step]:
    for step in steps:
        watch(first, step)
        yield step


def _prepare(folder: Path, metadata: Sequence[Mapping[str, str]], *, overwrite: bool) -> list[Path]:
    """Return the earlier samples to remove, if `overwrite`.

    Otherwise the new samples join those in the folder, which may have fewer labels. Raises
    FolderNotEmpty if these are of another model, of other settings or labels.
    """
    require_room(folder)
    found = samples_in(folder) if folder.is_dir() else {}
    labels = {texts.get("labels") for texts in metadata}
    for name, texts in found.items():
        problem = difference(texts, metadata[0]) if texts else NOT_OURS
        if not problem and texts.get("labels") not in labels:
            problem = f"labels = {texts.get('labels', 'none')}, which are not requested"
        if problem and not (overwrite and texts):
            fix = "Give --out a new folder" + (", or add --overwrite." if texts else ".")
            raise FolderNotEmpty(f"{(folder / name).absolute()} has {problem}. {fix}")
    return [*(folder / name for name in found), *folder.glob("samples_*.npz")] if overwrite else []


class Trajectory:
    """Pictures of one batch from noise to images. Call `follow`, then `save`."""

    def __init__(self, request: Request, outputs: Outputs, title: str) -> None:
        """Select the timesteps to show. Raises ConfigError for times out of range."""
        self.folder, self.outputs, self.title = request.folder, outputs, title
        self.data_range, schedule = request.model.spec.data_range, request.model.denoiser.schedule
        visited = [*visited_timesteps(request.config, schedule), 0]
        times = outputs.times or _evenly_spaced(visited, STRIP_TIMES)
        if outside := [t for t in times if not 0 <= t <= schedule.T]:
            raise ConfigError(f"times = {outside[0]} is out of range. Use 0 to {schedule.T}.")
        nearest = {min(visited, key=lambda kept: abs(kept - t)) for t in times}
        self.times = sorted(nearest, reverse=True) if outputs.trajectory else []
        self.frame_times = _evenly_spaced(visited, MAX_FRAMES) if outputs.gif else []
        self.frames: list[np.ndarray] = []  # of the animation
        self.strip: list[np.ndarray] = []  # x_t and x̂_0 of a few images, (2, B, C, H, W), per time
        self.files: list[Path] = []

    def follow(self, x: Tensor, steps: Iterable[Step]) -> Tensor:
        """Store x_t and the predicted x̂_0 at the shown timesteps. Return x_0."""
        for step in steps:
            self._keep(step.t, x, step.x0)
            x = step.x
        self._keep(0, x, x)
        return x

    def save(self) -> list[Path]:
        """Write the animation and the strip. Return them, after the grids of each step."""
        if self.outputs.gif:
            self.files.append(save_gif(self.frames, self.folder / "denoising.gif"))
        if self.outputs.trajectory:
            rows = [
                (label, np.stack([pixels[j, i] for pixels in self.strip]))
                for i in range(self.strip[0].shape[1])
                for j, label in enumerate(("$x_t$", "predicted $x_0$"))
            ]
            path = self.folder / "trajectory.png"
            self.files.append(strip_figure(rows, self.times, path, title=self.title))
        return self.files

    def _keep(self, t: int, x: Tensor, x0: Tensor) -> None:
        def pixels(images: Tensor, count: int = GRID_IMAGES) -> np.ndarray:
            return to_uint8(images[:count], self.data_range).numpy()

        if t in self.frame_times:
            self.frames.append(tile(pixels(x)))
        if t in self.times:
            self.strip.append(np.stack([pixels(each, self.outputs.strips) for each in (x, x0)]))
        grids = [("x_t", "$x_t$", x), ("predicted_x0", "$x_0$ as predicted", x0)]
        for name, symbol, images in grids[: 2 if t > 0 else 1] if self.outputs.each_step else ():
            path = self.folder / "steps" / f"{name}-{t:04d}.png"
            title = f"{symbol} at $t$ = {t}, {self.title}"
            self.files.append(grid_figure(pixels(images), path, title=title))


def _evenly_spaced(times: Sequence[int], at_most: int) -> list[int]:
    """Return up to `at_most` of the times, evenly spaced, the first and the last included."""
    indices = torch.linspace(0, len(times) - 1, min(at_most, len(times))).round()
    return [times[int(i)] for i in indices]


# ---- names, titles and metadata -----------------------------------------------------------------


def default_folder(
    model: Model, path: Path, config: SamplingConfig, conditioning: Conditioning
) -> Path:
    """Return samples/NAME in the run, or beside a file outside of a run.

    path: of the model. NAME has the step, the weights, the sampler with its options and the labels,
    so that other settings have another folder. For a file outside of a run it begins with the
    file's name, and for a model by name with that. It ends with the precision, unless that is the
    default.
    """
    spec, (cond, compose, autoguidance) = model.spec, conditioning
    folder = run_folder_of(path)

    def named(labels: str) -> str:
        alike = len({_safe(name).casefold() for name in spec.label_names}) < len(spec.label_names)
        return f"{_safe(labels)} {_digest(labels.encode())}" if alike else _safe(labels)

    usual = check_component(Component(name=config.sampler.name), "sampling.sampler").options
    parts = [f"{spec.step:06d}", spec.weights_name, config.sampler.name, str(config.steps)]
    if is_name(path):
        parts.insert(0, _safe(str(path)))
    elif path.is_file() and folder == path.parent and path.name not in FILE_OF.values():
        parts.insert(0, path.stem)
    parts += [f"{k}{value}" for k, value in config.sampler.options.items() if value != usual[k]]
    parts += [config.timesteps_name] if config.timesteps != RULE else []
    parts += [CLAMP_NAMES[config.clamp]] if config.clamp != spec.sampling.clamp else []
    if cond is not None:
        parts += [f"guidance{config.guidance:g}"] if config.guidance != 1 else []
        if config.guidance_interval is not None:
            parts += ["t{}-{}".format(*config.guidance_interval)]
        parts += [f"rescale{config.guidance_rescale:g}"] if config.guidance_rescale else []
        same = (cond == cond[0]).all()
        text = describe_labels(cond[0], spec.label_names)
        parts += [named(text) if same else f"labels {_digest(cond.tobytes())}"]
    parts += [named(composition_text(compose))] if compose is not None else []
    if autoguidance is not None:
        parts += [f"auto{autoguidance.scale:g}by{autoguidance.weak.spec.step:06d}"]
    if config.precision != default_precision(model.device):
        parts += [config.precision]
    return folder / "samples" / "-".join(parts)


def _settings(request: Request) -> dict[str, str]:
    config, conditioning, spec = request.config, request.conditioning, request.model.spec
    settings = config.model_dump(include={"steps", "timesteps", "clamp", "precision"})
    if not isinstance(config.timesteps, str):
        settings["timesteps"] = ", ".join(map(str, config.timesteps))
    settings |= {"sampler": config.sampler.name, **config.sampler.options}
    settings |= {"weights": spec.weights_name, "trained steps": spec.step}
    settings["model"] = _model_hash(request.model)
    settings |= {} if spec.channels in SHOWN_WHOLE else {"channels": spec.channels}
    settings |= {} if spec.depth == 8 else {"depth": spec.depth}
    settings |= {"white": spec.white} if spec.depth == 16 and spec.white else {}
    if conditioning.autoguidance is not None:
        weak, scale = conditioning.autoguidance
        settings |= {"autoguidance": f"{scale:g}", "autoguidance steps": weak.spec.step}
        settings["autoguidance model"] = _model_hash(weak)
    if conditioning.cond is not None:
        settings["guidance"] = f"{config.guidance:g}"
        if config.guidance_interval is not None:
            settings["guidance interval"] = "{}-{}".format(*config.guidance_interval)
        if config.guidance_rescale:
            settings["guidance rescale"] = f"{config.guidance_rescale:g}"
    return {key: str(value) for key, value in settings.items()} | {"software": "fromnoise"}


def _title(request: Request) -> str:
    config, conditioning, spec = request.config, request.conditioning, request.model.spec
    weights = {"ema": "EMA weights", "raw": "raw weights"}[spec.weights]
    if spec.power_average is not None:
        weights += f" of length {spec.power_average.length:g}"
    rule = config.timesteps if isinstance(config.timesteps, str) else "listed"
    at = f" at {rule} timesteps" if rule != RULE else ""
    title = f"{config.steps} {config.sampler.name.upper()} steps{at}, {weights}"
    if config.guidance != 1:
        title += f", guidance {config.guidance:g}"
    if conditioning.autoguidance is not None:
        weak, scale = conditioning.autoguidance
        title += f", autoguidance {scale:g} by step {weak.spec.step:,}"
    return title


def _safe(text: str) -> str:
    """Return a text as a part of a file name, cut at LONGEST_NAME bytes."""
    safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", text).strip(" .")
    if len(safe.encode()) <= LONGEST_NAME:
        return safe
    short = safe.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{short} {_digest(text.encode())}"


def _model_hash(model: Model) -> str:
    return hash_of(model.denoiser.state_dict())[:16]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=4).hexdigest()
