"""Summarize a run for the page: formatted facts, inline images and charts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from fromnoise.progress import format_duration
from fromnoise.report.charts import Chart, bits_chart, run_colour, sweep_chart
from fromnoise.report.inline_images import InlineImage, inline_grid, inline_png
from fromnoise.report.records import LabelScores, Metrics, Record, Sweep, read_records, select
from fromnoise.report.run_folder import Preview, RunFolder
from fromnoise.report.trajectory import IMAGES, Trajectory, sample_trajectory

FORMULA = Markup("ε = ε<sub>∅</sub> + s·(ε<sub>c</sub> − ε<sub>∅</sub>)")
PREVIEW_COLUMNS = 8


Strip = list[tuple[int, InlineImage, InlineImage]]  # (t, x_t, x̂_0) of one seed


class RecordView(NamedTuple):
    """The content of an evaluation record with its pictures and chart."""

    folder: str
    content: Any
    pictures: list[InlineImage]
    chart: Chart | None = None


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

    def view(record: Record, content: Any, names: list[str]) -> RecordView:
        pictures = []
        for name in names:
            if name in record.pictures:
                try:
                    pictures.append(inline_png(record.pictures[name], f"{run.name}: {name}"))
                except (ValueError, OSError) as error:
                    problems.append(f"{record.folder}/{name} cannot be shown: {error}")
        chart = None
        if isinstance(content, Sweep):
            chart = sweep_chart(content)
        if isinstance(content, Metrics) and content.bits is not None:
            chart = bits_chart(content.bits, run.name, run_colour(index))
        return RecordView(record.folder, content, pictures, chart)

    return RunSummary(
        name=run.name,
        path=str(run.folder.absolute()),
        colour=run_colour(index),
        problems=problems,
        facts=_facts(run, trajectory),
        sampling=_sampling(trajectory),
        samples=_samples(run, trajectory),
        shape=None if trajectory is None else trajectory.images.shape[1:],
        strips=_strips(run, trajectory),
        previews=[(preview.step, _preview(run, preview)) for preview in run.previews],
        metrics=[
            view(record, content, [(content.copies and content.copies.sheet) or ""])
            for record, content in select(Metrics, records)
        ],
        labels=[
            view(record, content, [f"{r.prompts}-s{r.guidance:g}.png" for r in content.results])
            for record, content in select(LabelScores, records)
        ],
        sweeps=[view(record, content, []) for record, content in select(Sweep, records)],
    )


def _facts(run: RunFolder, trajectory: Trajectory | None) -> list[tuple[str, str]]:
    """Return the known facts about a run."""
    facts = []
    recipe = run.recipe
    if source := recipe.get("data.source"):
        facts.append(("data", str(source)))
    if trajectory is not None:
        spec = trajectory.model.spec
        height, width = spec.size
        labels = f", {len(spec.label_names)} labels" if spec.label_names else ""
        facts.append(("images", f"{width} × {height}, {_channels(spec.channels)}{labels}"))
        count = sum(p.numel() for p in trajectory.model.denoiser.parameters())
        facts.append(("network", f"{spec.network.name}, {count:,} parameters"))
    elif name := recipe.get("network.name"):
        facts.append(("network", str(name)))
    steps = run.last("step")
    if steps is not None:
        planned = recipe.get("training.steps")
        total = f" of {planned:,}" if isinstance(planned, int) and planned > steps else ""
        facts.append(("steps", f"{steps:,.0f}{total}"))
    if (images := run.last("images")) is not None:
        epoch = run.last("epoch")
        epochs = "" if epoch is None else f" ({epoch:.3g} epochs)"
        facts.append(("images seen", f"{images:,.0f}{epochs}"))
    if (seconds := run.last("seconds")) is not None:
        facts.append(("time", format_duration(seconds)))
    if run.skipped:
        facts.append(("skipped steps", f"{run.skipped}"))
    return facts


def _channels(count: int) -> str:
    return {1: "grey", 3: "colour"}.get(count, f"{count} channels")


def _sampling(trajectory: Trajectory | None) -> str:
    if trajectory is None:
        return ""
    spec = trajectory.model.spec
    text = f"Seeds 0–{IMAGES - 1}, {trajectory.steps} DDIM steps, EMA weights of step {spec.step:,}"
    if not spec.label_names:
        return f"{text}."
    labelled = Markup("{}, each label in turn, guidance s = {} in {} (s = 1 is off).")
    return labelled.format(text, f"{spec.sampling.guidance:g}", FORMULA)


def _samples(run: RunFolder, trajectory: Trajectory | None) -> list[tuple[str, InlineImage]]:
    if trajectory is None:
        return []
    samples = []
    pairs = zip(trajectory.captions, trajectory.images, strict=True)
    for seed, (caption, image) in enumerate(pairs):
        alt = f"{run.name}: seed {seed}" + (f", {caption}" if caption else "")
        samples.append((caption, inline_grid(image[None], alt)))
    return samples


def _strips(run: RunFolder, trajectory: Trajectory | None) -> list[Strip]:
    if trajectory is None:
        return []
    strips: list[Strip] = [[] for _ in range(trajectory.x.shape[1])]
    for t, x, x0 in zip(trajectory.timesteps, trajectory.x, trajectory.x0, strict=True):
        for seed, strip in enumerate(strips):
            noisy = inline_grid(x[seed][None], f"{run.name}: seed {seed}, x at t = {t}")
            clean = inline_grid(
                x0[seed][None], f"{run.name}: seed {seed}, predicted x_0 at t = {t}"
            )
            strip.append((t, noisy, clean))
    return strips


def _preview(run: RunFolder, preview: Preview) -> InlineImage:
    alt = f"{run.name}: {len(preview.images)} previews at step {preview.step:,}"
    return inline_grid(preview.images, alt, columns=PREVIEW_COLUMNS)
