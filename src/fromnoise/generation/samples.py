"""From a model to a folder of pictures."""

import hashlib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise.config.components import Component, checked
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import Sampling
from fromnoise.data.labels.names import describe_labels
from fromnoise.diffusion import Step, sampling_timesteps
from fromnoise.model.model import Autoguidance, Model, to_uint8
from fromnoise.model.precision import default_precision
from fromnoise.model.spec import FILE_OF, run_folder_of
from fromnoise.pictures import (
    grid_figure,
    grids_side_by_side,
    save_gif,
    save_pngs,
    strip_figure,
    tile,
)
from fromnoise.rng import require_unique_seeds

GRID_IMAGES = 64  # in the grid, the noise grid and the animation
STRIP_TIMES = 10
MAX_FRAMES = 60
LONGEST_NAME = 100  # bytes of the labels in a file name
MADE_BY = {"software": "fromnoise"}


def default_folder(
    model: Model,
    path: Path,
    *,
    cond: np.ndarray | None = None,
    compose: Mapping[str, float] | None = None,
    autoguidance: Autoguidance | None = None,
    **how: Any,
) -> Path:
    """Where samples go when nobody says: samples/NAME in the run, or beside a single file.

    path: what the model was loaded from. NAME tells the step, the weights, the sampler with its
    options and the labels, so that other ways of sampling go to other folders; of a file that
    belongs to no run, its name too, and the precision where it is not the usual one.
    """
    plan = model.sampling_plan(**how)
    usual = checked(Component(name=plan.sampler.name), "sampling.sampler").options
    parts = [f"{model.spec.step:06d}", model.spec.weights_name, plan.sampler.name, str(plan.steps)]
    if path.is_file() and run_folder_of(path) == path.parent and path.name not in FILE_OF.values():
        parts.insert(0, path.stem)
    parts += [f"{key}{value}" for key, value in plan.sampler.options.items() if value != usual[key]]
    parts += [plan.timesteps] if plan.timesteps != Sampling().timesteps else []
    if plan.clamp != model.spec.sampling.clamp:
        parts += [{True: "clamped", False: "unclamped", "dynamic": "dynamic"}[plan.clamp]]
    if cond is not None:
        parts += [f"guidance{plan.guidance:g}"] if plan.guidance != 1 else []
        if plan.guidance_interval is not None:
            parts += ["t{}-{}".format(*plan.guidance_interval)]
        parts += [f"rescale{plan.guidance_rescale:g}"] if plan.guidance_rescale else []
        same = (cond == cond[0]).all()
        words = describe_labels(cond[0], model.spec.label_names)
        parts += [_safe(words) if same else f"labels {_digest(cond.tobytes())}"]
    parts += [_safe(_in_words(compose))] if compose is not None else []
    if autoguidance is not None:
        parts += [f"auto{autoguidance.scale:g}by{autoguidance.weak.spec.step:06d}"]
    if model.precision != default_precision(model.device):
        parts += [model.precision]
    return run_folder_of(path) / "samples" / "-".join(parts)


def sample_to_folder(
    model: Model,
    seeds: Sequence[int],
    folder: Path,
    *,
    cond: np.ndarray | None = None,
    compose: Mapping[str, float] | None = None,
    autoguidance: Autoguidance | None = None,
    batch_size: int = 64,
    grid: bool = True,
    columns: int | None = None,
    npz: bool = False,
    gif: bool = False,
    each_step: bool = False,
    trajectory: bool = False,
    times: Sequence[int] | None = None,
    strips: int = 4,
    noise: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **how: Any,
) -> list[Path]:
    """Make one image per seed and write them, each as a PNG named by its seed.

    Returns the paths: those of the PNGs in the order of the seeds, then those of all other files.

    cond: labels of each image in {−1, 0, +1}, (len(seeds), K), or compose: labels and weights for
    all of them, see `Model.sample`. They go into names and captions. autoguidance: as there.
    grid: the first 64 in one picture, `columns` in a row (None: about square).
    npz: all as `samples_NxHxWxC.npz`, `arr_0` uint8 and with labels `arr_1` int8.
    gif: x_t from noise to image. trajectory: a strip of x_t, and of the x̂_0 predicted from it, at
    `times` (the nearest that the sampler visits), or at ten, for the first `strips` images.
    each_step: for every t a grid of x_t and one of the predicted x_0, of the first batch.
    noise: the x_T of the grid beside what became of it.
    progress is called with (images finished, of how many) after each batch.
    how: as in `Model.denoise`. Raises ValueError for a seed that comes twice
    with the same labels.
    """
    plan = model.sampling_plan(**how)
    settings = {
        "sampler": plan.sampler.name,
        "steps": str(plan.steps),
        "timesteps": plan.timesteps,
        "clamp": str(plan.clamp),
        "weights": model.spec.weights_name,
        "precision": model.precision,
        "trained steps": str(model.spec.step),
        **{key: str(value) for key, value in plan.sampler.options.items()},
    }
    words = [""] * len(seeds)
    if autoguidance is not None:
        settings["autoguidance"] = f"{autoguidance.scale:g}"
        settings["autoguidance steps"] = str(autoguidance.weak.spec.step)
    if cond is not None:
        settings["guidance"] = f"{plan.guidance:g}"
        if plan.guidance_interval is not None:
            settings["guidance interval"] = "{}-{}".format(*plan.guidance_interval)
        if plan.guidance_rescale:
            settings["guidance rescale"] = f"{plan.guidance_rescale:g}"
        words = [describe_labels(row, model.spec.label_names) for row in cond]
    if compose is not None:
        words = [_in_words(compose)] * len(seeds)
    require_unique_seeds(seeds, words)
    weights = {"ema": "EMA weights", "raw": "raw weights"}[model.spec.weights]
    if model.spec.power_average is not None:
        weights += f" of length {model.spec.power_average.length:g}"
    spaced = f" spaced {plan.timesteps}" if plan.timesteps != Sampling().timesteps else ""
    title = f"{plan.steps} {plan.sampler.name.upper()} steps{spaced}, {weights}"
    if cond is not None and plan.guidance != 1:
        title += f", guidance {plan.guidance:g}"
    if autoguidance is not None:
        weaker = f"step {autoguidance.weak.spec.step:,}"
        title += f", autoguidance {autoguidance.scale:g} by {weaker}"
    pngs: list[Path] = []
    files: list[Path] = []
    images: list[np.ndarray] = []
    for i in range(0, len(seeds), batch_size):
        batch, said = seeds[i : i + batch_size], words[i : i + batch_size]
        film = Film(model, batch, plan, times, strips) if i == 0 and (gif or trajectory) else None
        labels = None if cond is None else torch.from_numpy(cond[i : i + batch_size])
        guided = {"cond": labels, "compose": compose, "autoguidance": autoguidance}
        for step in model.denoise(batch, **guided, **how):
            if film is not None:
                film.take(step)
            if each_step and i == 0:
                files += _save_step(step, model, folder / "steps", title)
        if each_step and i == 0:
            x_T = to_uint8(model.start(batch[:GRID_IMAGES]), model.spec.data_range).numpy()
            files.append(_save_grid(x_T, folder / "steps", "x_t", model.denoiser.schedule.T, title))
        finished = to_uint8(step.x, model.spec.data_range).numpy()
        metadata = [
            {**settings, "seed": str(seed), **({"labels": text} if text else {}), **MADE_BY}
            for seed, text in zip(batch, said, strict=True)
        ]
        names = [_file_name(seed, text) for seed, text in zip(batch, said, strict=True)]
        pngs += save_pngs(finished, folder, names, metadata)
        images.append(finished)
        progress(i + len(batch), len(seeds))
        if film is not None and gif:
            files.append(save_gif(film.frames, folder / "denoising.gif"))
        if film is not None and trajectory:
            files.append(film.save_strip(folder / "trajectory.png", title))
    everything = np.concatenate(images)
    first = everything[:GRID_IMAGES]
    if grid:
        different = len(set(words)) > 1
        captions = [text.replace(", ", "\n") for text in words[:GRID_IMAGES]] if different else None
        one = "" if different else textwrap.shorten(words[0], 60, placeholder=" …")
        above = f"{one}: {title}" if one else title
        path = folder / "grid.png"
        files.append(grid_figure(first, path, title=above, captions=captions, columns=columns))
    if noise:
        start = to_uint8(model.start(seeds[:GRID_IMAGES]), model.spec.data_range).numpy()
        panels = [("$x_T$, the starting noise", start), ("$x_0$, what became of it", first)]
        path = folder / "noise.png"
        files.append(grids_side_by_side(panels, path, title=title, columns=columns))
    if npz:
        nhwc = everything.transpose(0, 2, 3, 1)
        files.append(folder / f"samples_{'x'.join(map(str, nhwc.shape))}.npz")
        if cond is None:
            np.savez(files[-1], arr_0=nhwc)
        else:
            np.savez(files[-1], arr_0=nhwc, arr_1=cond)
    return pngs + files


def _file_name(seed: int, words: str) -> str:
    """`000007`, or with labels `000007-red cube`."""
    return f"{seed:06d}-{_safe(words)}" if words else f"{seed:06d}"


def _in_words(compose: Mapping[str, float]) -> str:
    """`red cube=3, blue sphere=-1`."""
    return ", ".join(f"{name}={weight:g}" for name, weight in compose.items())


def _safe(words: str) -> str:
    safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", words).strip(" .")
    if len(safe.encode()) <= LONGEST_NAME:
        return safe
    short = safe.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{short} {_digest(words.encode())}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=4).hexdigest()


def _save_step(step: Step, model: Model, folder: Path, title: str) -> list[Path]:
    """Grids of x_s and of the x̂_0 predicted from x_t, each named by its own time."""
    shown = (a[:GRID_IMAGES] for a in (step.x, step.x0))
    x, x0 = (to_uint8(a, model.spec.data_range).numpy() for a in shown)
    return [
        _save_grid(x0, folder, "predicted_x0", step.t, title),
        _save_grid(x, folder, "x_t", step.s, title),
    ]


def _save_grid(images: np.ndarray, folder: Path, what: str, t: int, title: str) -> Path:
    words = {"x_t": "$x_t$ at", "predicted_x0": "$x_0$ as predicted at"}[what]
    return grid_figure(images, folder / f"{what}-{t:04d}.png", title=f"{words} $t$ = {t}, {title}")


class Film:
    """What is kept of the denoising of one batch: a few frames and a few columns of a strip."""

    def __init__(
        self,
        model: Model,
        seeds: Sequence[int],
        plan: Sampling,
        times: Sequence[int] | None,
        strips: int,
    ) -> None:
        """times: those of the strip, in {0..T}; the nearest kept ones are shown, T first."""
        self._strips = strips
        T = model.denoiser.schedule.T
        visited = [*sampling_timesteps(model.denoiser.schedule, plan.steps, plan.timesteps), 0]
        if times is None:
            times = [visited[i] for i in _spread(len(visited), STRIP_TIMES)]
        outside = [t for t in times if not 0 <= t <= T]
        if outside:
            raise ConfigError(f"times must lie in 0..{T}, not {outside[0]}")
        nearest = {min(visited, key=lambda kept: abs(kept - t)) for t in times}
        self.times = sorted(nearest, reverse=True)
        self._frame_times = {visited[i] for i in _spread(len(visited), MAX_FRAMES)}
        self.frames: list[np.ndarray] = []
        self._x: dict[int, np.ndarray] = {}  # t → x_t of the first images
        self._x0: dict[int, np.ndarray] = {}  # t → x̂_0 predicted from that x_t
        self._data_range = model.spec.data_range
        self._see(visited[0], model.start(seeds))

    def _see(self, t: int, x: torch.Tensor) -> None:
        if t in self._frame_times:
            self.frames.append(tile(to_uint8(x[:GRID_IMAGES], self._data_range).numpy()))
        if t in self.times:
            self._x[t] = to_uint8(x[: self._strips], self._data_range).numpy()

    def take(self, step: Step) -> None:
        """Keep what is wanted of this step."""
        if step.t in self.times:
            self._x0[step.t] = to_uint8(step.x0[: self._strips], self._data_range).numpy()
        self._see(step.s, step.x)

    def save_strip(self, path: Path, title: str) -> Path:
        """Two rows for each image. At t = 0 there is nothing to predict: both show the result."""
        x0 = self._x0 | {0: self._x[0]} if 0 in self._x else self._x0
        rows = []
        for i in range(len(next(iter(self._x.values())))):
            for label, series in (("$x_t$", self._x), ("predicted $x_0$", x0)):
                rows.append((label, np.stack([series[t][i] for t in self.times])))
        return strip_figure(rows, self.times, path, title=title)


def _spread(count: int, at_most: int) -> list[int]:
    """Indices from 0 to count−1, both among them, evenly spread."""
    return torch.linspace(0, count - 1, min(at_most, count)).round().int().tolist()
