"""What the page says of one run: facts in words, pictures ready to be inlined."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from fromnoise.progress import format_duration
from fromnoise.report.drawing import IMAGES, Drawing, draw
from fromnoise.report.figures import Chart, bits_chart, colour_of, sweep_chart
from fromnoise.report.inlined import Picture, picture, picture_file
from fromnoise.report.measured import (
    Evaluation,
    Labels,
    Metrics,
    Sweep,
    of_kind,
    read_evaluations,
)
from fromnoise.report.run_folder import RunFolder

FORMULA = Markup("ε = ε<sub>∅</sub> + s·(ε<sub>c</sub> − ε<sub>∅</sub>)")
PREVIEW_COLUMNS = 8


class Strip(NamedTuple):
    """The denoising of one seed: at each time x_t and the x̂_0 that is predicted from it."""

    seed: int
    caption: str
    columns: list[tuple[int, Picture, Picture]]  # (t, x_t, x̂_0)


class Measured(NamedTuple):
    """The content of one evaluation file with its pictures and chart."""

    where: str
    content: Any
    pictures: list[Picture]
    chart: Chart | None = None


@dataclass(kw_only=True)
class Shown:
    """All that the page says of one run."""

    name: str
    path: str
    colour: str
    problems: list[str]
    glance: list[tuple[str, str]]
    how: str  # the samples were drawn
    samples: list[tuple[str, Picture]]  # caption, image
    shape: tuple[int, int, int] | None  # (C, H, W) of them, which their noise depends on
    strips: list[Strip]
    previews: list[tuple[int, Picture]]  # step, images
    metrics: list[Measured]
    labels: list[Measured]
    sweeps: list[Measured]


def show(run: RunFolder, index: int, *, progress: Callable[[int, int], None]) -> Shown:
    """Draw samples and gather what is there; what is missing or damaged is said in `problems`.

    index: the place of the run on the page. progress: as of `draw`.
    """
    problems, drawing = list(run.problems), None
    try:
        drawing = draw(run.folder, progress=progress)
    except (ValueError, OSError) as error:
        problems.append(f"no samples could be drawn: {error}")
    evaluations, damaged = read_evaluations(run.folder)
    problems += damaged

    def measured(one: Evaluation, content: Any, names: list[str]) -> Measured:
        pictures = []
        for name in names:
            if name in one.pictures:
                try:
                    pictures.append(picture_file(one.pictures[name], f"{run.name}: {name}"))
                except (ValueError, OSError) as error:
                    problems.append(f"{one.where}/{name} cannot be shown: {error}")
        chart = None
        if isinstance(content, Sweep):
            chart = sweep_chart(content)
        if isinstance(content, Metrics) and content.bits is not None:
            chart = bits_chart(content.bits, run.name, colour_of(index))
        return Measured(one.where, content, pictures, chart)

    return Shown(
        name=run.name,
        path=str(run.folder.absolute()),
        colour=colour_of(index),
        problems=problems,
        glance=_glance(run, drawing),
        how=_how(drawing),
        samples=_samples(run, drawing),
        shape=None if drawing is None else drawing.images.shape[1:],
        strips=_strips(run, drawing),
        previews=[
            (
                preview.step,
                picture(
                    preview.images,
                    f"{run.name}: {len(preview.images)} previews at step {preview.step:,}",
                    columns=PREVIEW_COLUMNS,
                ),
            )
            for preview in run.previews
        ],
        metrics=[
            measured(one, content, [(content.copies and content.copies.sheet) or ""])
            for one, content in of_kind(Metrics, evaluations)
        ],
        labels=[
            measured(one, content, [f"{r.prompts}-s{r.guidance:g}.png" for r in content.results])
            for one, content in of_kind(Labels, evaluations)
        ],
        sweeps=[measured(one, content, []) for one, content in of_kind(Sweep, evaluations)],
    )


def _glance(run: RunFolder, drawing: Drawing | None) -> list[tuple[str, str]]:
    """The run in a few facts; those that are not known are left out."""
    facts = []
    recipe = run.recipe
    if source := recipe.get("data.source"):
        facts.append(("data", str(source)))
    if drawing is not None:
        spec = drawing.model.spec
        height, width = spec.size
        labels = f", {len(spec.label_names)} labels" if spec.label_names else ""
        facts.append(("images", f"{width} × {height}, {_channels(spec.channels)}{labels}"))
        count = sum(p.numel() for p in drawing.model.denoiser.parameters())
        facts.append(("network", f"{spec.network.name}, {count:,} parameters"))
    elif name := recipe.get("network.name"):
        facts.append(("network", str(name)))
    steps = run.last("step")
    if steps is not None:
        planned = recipe.get("training.steps")
        of = f" of {planned:,}" if isinstance(planned, int) and planned > steps else ""
        facts.append(("steps", f"{steps:,.0f}{of}"))
    if (seen := run.last("images")) is not None:
        epoch = run.last("epoch")
        epochs = "" if epoch is None else f" ({epoch:.3g} epochs)"
        facts.append(("images seen", f"{seen:,.0f}{epochs}"))
    if (seconds := run.last("seconds")) is not None:
        facts.append(("time", format_duration(seconds)))
    if run.skipped:
        facts.append(("skipped steps", f"{run.skipped}"))
    return facts


def _channels(count: int) -> str:
    return {1: "grey", 3: "colour"}.get(count, f"{count} channels")


def _how(drawing: Drawing | None) -> str:
    if drawing is None:
        return ""
    spec = drawing.model.spec
    words = (
        f"Seeds 0–{IMAGES - 1}, {drawing.steps} DDIM steps, averaged weights of step {spec.step:,}"
    )
    if not spec.label_names:
        return f"{words}."
    s = spec.sampling.guidance
    said = Markup("{}; each label in turn, guidance s = {} in {} (1 is off).")
    return said.format(words, f"{s:g}", FORMULA)


def _samples(run: RunFolder, drawing: Drawing | None) -> list[tuple[str, Picture]]:
    if drawing is None:
        return []
    shown = []
    for seed, (caption, image) in enumerate(zip(drawing.captions, drawing.images, strict=True)):
        words = f"{run.name}: seed {seed}" + (f", {caption}" if caption else "")
        shown.append((caption, picture(image[None], words)))
    return shown


def _strips(run: RunFolder, drawing: Drawing | None) -> list[Strip]:
    if drawing is None:
        return []
    strips = []
    for seed in range(drawing.x.shape[1]):
        columns = [
            (
                t,
                picture(x[seed][None], f"{run.name}: seed {seed}, x at t = {t}"),
                picture(x0[seed][None], f"{run.name}: seed {seed}, x_0 as predicted at t = {t}"),
            )
            for t, x, x0 in zip(drawing.times, drawing.x, drawing.x0, strict=True)
        ]
        strips.append(Strip(seed, drawing.captions[seed], columns))
    return strips
