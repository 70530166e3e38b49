"""Summarize a run for the page: formatted facts, inline images and charts."""

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fromnoise.pictures import displayable, mosaic, to_pillow
from fromnoise.progress import format_duration
from fromnoise.report.charts import Chart, bits_chart, css_class, run_colour, sweep_chart
from fromnoise.report.records import LabelScores, Metrics, Record, Sweep, read_records
from fromnoise.report.run_folder import RunFolder
from fromnoise.report.trajectory import IMAGES, STRIPS, Trajectory, sample_trajectory

MIN_SIDE = 56  # pixels on the page; smaller images are enlarged by an integer factor
PREVIEW_COLUMNS = 8


class InlineImage(NamedTuple):
    """An `<img>` with its URL, alternative text and size on the page."""

    src: str
    alt: str
    width: int
    height: int
    pixelated: bool = True


Strip = list[tuple[int, InlineImage, InlineImage]]  # (t, x_t, x̂_0) of one seed


class RecordView(NamedTuple):
    """The content of an evaluation record with its pictures and chart."""

    folder: str  # relative to the run
    content: Any
    pictures: list[InlineImage]
    chart: Chart | None


@dataclass(kw_only=True)
class RunSummary:
    """Everything that the page shows of one run."""

    name: str
    path: str
    colour: str
    problems: list[str]
    facts: list[tuple[str, str]]
    sampling: str  # the settings of the samples
    samples: list[tuple[str, InlineImage]]  # caption, image
    shape: tuple[int, int, int] | None  # (C, H, W) of the samples
    strips: list[Strip]  # denoising trajectories
    previews: list[tuple[int, InlineImage]]  # step, images
    metrics: list[RecordView]
    labels: list[RecordView]
    sweeps: list[RecordView]


def summarize(run: RunFolder, index: int, *, progress: Callable[[int, int], None]) -> RunSummary:
    """Sample the run's model and collect its files. Missing and damaged files go to `problems`.

    index: the run's position on the page. progress: as in `sample_trajectory`.
    """
    problems, trajectory = list(run.problems), None
    try:
        trajectory = sample_trajectory(run.folder, progress=progress)
    except (ValueError, OSError) as error:
        problems.append(f"sampling failed: {error}")
    records, damaged = read_records(run.folder)
    problems += damaged

    def views(kind: type[Record]) -> list[RecordView]:
        chosen = [(folder, content) for folder, content in records if isinstance(content, kind)]
        return [_view(run, index, folder, content, problems) for folder, content in chosen]

    return RunSummary(
        name=run.name,
        path=str(run.folder.absolute()),
        colour=css_class(run_colour(index)),
        problems=problems,
        facts=_facts(run, trajectory),
        sampling=_sampling(trajectory),
        samples=_samples(run, trajectory),
        shape=None if trajectory is None else trajectory.images.shape[1:],
        strips=_strips(run, trajectory),
        previews=[
            (step, inline_grid(images, f"{run.name}: {len(images)} previews at step {step:,}"))
            for step, images in run.previews
        ],
        metrics=views(Metrics),
        labels=views(LabelScores),
        sweeps=views(Sweep),
    )


def _view(
    run: RunFolder, index: int, folder: Path, content: Record, problems: list[str]
) -> RecordView:
    where = folder.relative_to(run.folder).as_posix()
    names, chart = [], None
    match content:
        case Metrics():
            names = [content.copies.sheet] if content.copies and content.copies.sheet else []
            if content.bits is not None:
                chart = bits_chart(content.bits, run.name, run_colour(index))
        case LabelScores():
            names = [f"{row.prompts}-s{row.guidance:g}.png" for row in content.results]
        case Sweep():
            chart = sweep_chart(content)
    pictures = []
    for file in (folder / Path(name).name for name in names):
        try:
            if file.is_file():
                pictures.append(inline_png(file, f"{run.name}: {file.name}"))
        except (ValueError, OSError) as error:
            problems.append(f"{where}/{file.name} cannot be shown: {error}")
    return RecordView(where, content, pictures, chart)


def _facts(run: RunFolder, trajectory: Trajectory | None) -> list[tuple[str, str]]:
    """Return the known facts about a run."""
    recipe, last = run.recipe, run.last
    facts = {"data": recipe.get("data.source"), "images": "", "network": recipe.get("network.name")}
    if trajectory is not None:
        spec = trajectory.model.spec
        height, width = spec.size
        channels = {1: "grey", 3: "colour"}.get(spec.channels, f"{spec.channels} channels")
        labels = f", {len(spec.label_names)} labels" if spec.label_names else ""
        facts["images"] = f"{width} × {height}, {channels}{labels}"
        count = sum(p.numel() for p in trajectory.model.denoiser.parameters())
        facts["network"] = f"{spec.network.name}, {count:,} parameters"
    if (steps := last("step")) is not None:
        planned = recipe.get("training.steps")
        total = f" of {planned:,}" if isinstance(planned, int) and planned > steps else ""
        facts["steps"] = f"{steps:,.0f}{total}"
    if (images := last("images")) is not None:
        epochs = "" if (epoch := last("epoch")) is None else f" ({epoch:.3g} epochs)"
        facts["images seen"] = f"{images:,.0f}{epochs}"
    if (seconds := last("seconds")) is not None:
        facts["time"] = format_duration(seconds)
    if run.skipped:
        facts["skipped steps"] = str(run.skipped)
    return [(name, str(fact)) for name, fact in facts.items() if fact]


def _sampling(trajectory: Trajectory | None) -> str:
    if trajectory is None:
        return ""
    spec = trajectory.model.spec
    text = f"Seeds 0–{IMAGES - 1}, {trajectory.steps} DDIM steps, EMA weights of step {spec.step:,}"
    if spec.label_names:
        text += f", each label in turn, guidance scale {spec.sampling.guidance:g} (1 is off)"
    return f"{text}."


def _samples(run: RunFolder, trajectory: Trajectory | None) -> list[tuple[str, InlineImage]]:
    if trajectory is None:
        return []
    alts = [f"{run.name}: seed {seed}" for seed in range(len(trajectory.images))]
    return [
        (caption, inline_grid(image[None], f"{alt}, {caption}" if caption else alt))
        for alt, caption, image in zip(alts, trajectory.captions, trajectory.images, strict=True)
    ]


def _strips(run: RunFolder, trajectory: Trajectory | None) -> list[Strip]:
    if trajectory is None:
        return []
    strips: list[Strip] = []
    for seed in range(STRIPS):
        name = f"{run.name}: seed {seed}"
        strips.append(
            [
                (
                    t,
                    inline_grid(x[seed, None], f"{name}, x at t = {t}"),
                    inline_grid(x0[seed, None], f"{name}, predicted x_0 at t = {t}"),
                )
                for t, x, x0 in trajectory.stages
            ]
        )
    return strips


def inline_grid(images: np.ndarray, alt: str, *, columns: int = PREVIEW_COLUMNS) -> InlineImage:
    """Return a grid of images with transparent gaps. Each image pixel is one pixel of the PNG.

    images: uint8 (N, C, H, W), N ≥ 1. Channels are reduced to 1 or 3 as in `pictures`.
    """
    images = displayable(images)
    n, _, h, w = images.shape
    gap = 0 if n == 1 else max(1, w // 24)
    if gap:
        images = np.concatenate([images, np.full((n, 1, h, w), 255, np.uint8)], axis=1)  # opaque
    grid = mosaic(images, min(columns, n), gap, gap, fill=0)
    content = io.BytesIO()
    to_pillow(grid).save(content, "PNG", optimize=True)
    _, height, width = (math.ceil(MIN_SIDE / min(h, w)) * side for side in grid.shape)
    return InlineImage(_data_url(content.getvalue()), alt, width, height)


def inline_png(file: Path, alt: str) -> InlineImage:
    """Return a PNG file unchanged. Raises ValueError or OSError if it cannot be read."""
    with Image.open(file, formats=["PNG"]) as image:
        image.load()
        width, height = image.size
    return InlineImage(_data_url(file.read_bytes()), alt, width, height, pixelated=False)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
