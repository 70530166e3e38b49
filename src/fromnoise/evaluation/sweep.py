"""Quality against cost: the same seeds through several samplers, step counts and scales.

sweep-…/sweep.json    a row for each way of sampling; written after every one of them
        sweep.md      the same as a table
        sweep.png     distance against seconds an image, with the Pareto front

The same sweep into the same folder again goes on after the last row.
"""

import itertools
import json
import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import Sampling
from fromnoise.curves import sweep_figure
from fromnoise.data.text import read_json
from fromnoise.evaluation.features import Extractor, digest, in_parts
from fromnoise.evaluation.fid import moments_of
from fromnoise.evaluation.generated import draw
from fromnoise.evaluation.images import Real
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.metrics import (
    BLOCKS,
    Jackknifed,
    frechet_jackknifed,
    ratio,
    with_intervals,
)
from fromnoise.evaluation.records import counted
from fromnoise.evaluation.reference import Reference
from fromnoise.model.model import Model
from fromnoise.progress import progress_bar

SWEEP_FILE, TABLE_FILE, PICTURE = "sweep.json", "sweep.md", "sweep.png"
logger = logging.getLogger("fromnoise")


class Row(NamedTuple):
    """What one way of sampling costs, and how near its images come to the real ones."""

    sampler: str
    steps: int
    guidance: float
    seconds_per_image: float
    fid: Interval  # the Fréchet distance in the features of an extractor
    left_out: Sequence[float] = ()  # it without each block of seeds; older files have none


def ways(
    model: Model, samplers: Sequence[str], steps: Sequence[int], scales: Sequence[float]
) -> list[Sampling]:
    """Every combination once, checked. scales: empty for the model's own, or without labels."""
    combinations = dict.fromkeys(itertools.product(samplers, steps, scales or [None]))
    return [
        model.sampling_plan(sampler=sampler, steps=count, guidance=scale)
        for sampler, count, scale in combinations
    ]


def is_guided(model: Model, labels_of: Real | None) -> bool:
    """Whether there is anything to guide towards: real images with the labels of the model."""
    names = model.spec.label_names
    return bool(names) and labels_of is not None and labels_of.images.label_names == names


def facts_of(
    model: Model,
    plans: Sequence[Sampling],
    reference: dict[str, Any],
    extractor: Extractor,
    *,
    num: int,
    batch_size: int,
) -> dict[str, Any]:
    """All that the rows of a sweep depend on, for JSON. reference: what `Reference.said` is."""
    return {
        "versions": {name: version(name) for name in ("fromnoise", "torch")},
        "model": digest(model.denoiser),
        **model.spec.weights_info(),
        "ways": [plan.model_dump(mode="json") for plan in plans],
        "count": num,
        "batch_size": batch_size,
        "reference": reference,
        "extractor": {key: v for key, v in extractor._asdict().items() if key != "extract"},
        "device": str(model.device),
        "precision": model.precision,
    }


def read_rows(folder: Path, facts: dict[str, Any]) -> list[Row]:
    """The rows that the same sweep has written into `folder`, those of the first ways.

    Raises ConfigError where another sweep has, and names what differs.
    """
    file = folder / SWEEP_FILE
    if not file.exists():
        return []
    read = read_json(file, where=str(file.absolute()))
    stored = {"precision": "fp32", **read} if isinstance(read, dict) else {}  # older ones say none
    if other := [key for key, fact in facts.items() if stored.get(key) != fact]:
        raise ConfigError(
            f"{folder.absolute()} has a sweep that differs in {', '.join(other)}; give another "
            "--out, or remove it"
        )
    rows = [{key: row[key] for key in Row._fields if key in row} for row in stored["rows"]]
    return [Row(**{**row, "fid": Interval(**row["fid"])}) for row in rows]


def sweep(
    model: Model,
    plans: Sequence[Sampling],
    reference: Reference,
    extractor: Extractor,
    folder: Path,
    *,
    num: int,
    labels_of: Real | None = None,
    batch_size: int = 64,
    loaded_from: str = "",
) -> list[Row]:
    """Draw the seeds 0 to num−1 in each way, measure time and distance, and write both down.

    Ways that are in `folder` already are not drawn again.
    Raises ConfigError where the sweep there is another one.
    """
    facts = facts_of(model, plans, reference.said, extractor, num=num, batch_size=batch_size)
    if rows := read_rows(folder, facts):
        logger.info("%d of %d ways are in %s already", len(rows), len(plans), folder.absolute())
    guided = is_guided(model, labels_of)
    facts["loaded from"] = loaded_from
    first = range(min(batch_size, num))  # drawn once, so that the first way pays for no start
    model.sample(first, batch_size=batch_size, steps=1)
    for plan in plans[len(rows) :]:
        with progress_bar(f"images by {plan.sampler.name} {plan.steps}") as progress:
            drawn = draw(
                model,
                num,
                labels_of=None if labels_of is None else labels_of.images,
                batch_size=batch_size,
                progress=progress,
                sampler=plan.sampler.name,
                steps=plan.steps,
                guidance=plan.guidance if guided else None,
            )
        parts = [part.features for _, part in in_parts(extractor, drawn.images)]
        blocks = [moments_of(block) for block in np.array_split(np.concatenate(parts), BLOCKS)]
        distance = frechet_jackknifed(blocks, reference.mean, reference.covariance)
        fid, _ = with_intervals(distance)
        assert drawn.seconds is not None
        guidance, seconds = plan.guidance if guided else 1.0, drawn.seconds / num
        left_out = distance.left_out.tolist()
        rows.append(Row(plan.sampler.name, plan.steps, guidance, seconds, fid, left_out))
        facts["complete"] = len(rows) == len(plans)
        _write(folder, rows, facts, extractor.name)
    return rows


def front(rows: Sequence[Row]) -> list[bool]:
    """Which rows no other beats in both: Pareto's front of seconds and distance."""

    def beaten(row: Row, by: Row) -> bool:
        a, b = ((r.seconds_per_image, r.fid.value) for r in (row, by))
        return b[0] <= a[0] and b[1] <= a[1] and b != a

    return [not any(beaten(row, other) for other in rows) for row in rows]


def best(rows: Sequence[Row]) -> Row:
    """The fastest row whose distance is within the interval of the smallest one."""
    smallest = min(rows, key=lambda row: row.fid.value)
    good = [row for row in rows if row.fid.value <= smallest.fid.high]
    return min(good, key=lambda row: row.seconds_per_image)


def relative_distance(row: Row, rows: Sequence[Row]) -> Interval | None:
    """Its distance over the smallest one, by the same seeds; None where blocks are not known.

    The smallest of several is so by chance too, and the others look a little farther than they are.
    """
    nearest = min(rows, key=lambda row: row.fid.value)
    if row is nearest:
        return Interval(1.0, 1.0, 1.0)
    if not row.left_out or not nearest.left_out:
        return None
    times = ratio(*(Jackknifed(r.fid.value, np.array(r.left_out)) for r in (row, nearest)))
    return None if math.isnan(times.value) else times


def with_default(model: Model, row: Row, *, guided: bool) -> Model:
    """The same model, which samples in this way when nothing else is said.

    guided: whether the scale of the row was used; else the model keeps its own.
    """
    guidance = row.guidance if guided else None
    plan = model.sampling_plan(sampler=row.sampler, steps=row.steps, guidance=guidance)
    spec = model.spec.model_copy(update={"sampling": plan})
    return Model(model.denoiser, spec, precision=model.precision)


def in_words(row: Row) -> str:
    """`ddim 50`, or with guidance `ddim 50, s = 2`."""
    words = f"{row.sampler} {row.steps}"
    return words if row.guidance == 1 else f"{words}, s = {row.guidance:g}"


def table(rows: Sequence[Row], extractor: str, *, num: int, reference: dict[str, Any]) -> str:
    """The rows in Markdown, the fastest first; those on the front are bold.

    num: images in each way. reference: what `Reference.said` is.
    """
    lines = [
        f"| sampler and steps | seconds an image | {distance_of(extractor)} | × the nearest |",
        "|---|---|---|---|",
    ]
    on_front = front(rows)
    for i in np.argsort([row.seconds_per_image for row in rows]):
        row, bold = rows[i], "**" if on_front[i] else ""
        fid = f"{row.fid.value:.4g} [{row.fid.low:.4g}, {row.fid.high:.4g}]"
        times = relative_distance(row, rows)
        more = "" if times is None else f"{times.value:.3g} [{times.low:.3g}, {times.high:.3g}]"
        cells = (f"{bold}{in_words(row)}{bold}", f"{row.seconds_per_image:.3g}", fid, more)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Bold: no other way is both faster and nearer to the real images (Pareto's front).",
        "× the nearest: its distance over the smallest one, by the same seeds.",
        f"{num:,} images in each way, timed once; {counted(reference)}.",
    ]
    return "\n".join(lines) + "\n"


def distance_of(extractor: str) -> str:
    """What the Fréchet distance is called in these features: FID in those of Inception alone."""
    return "FID" if extractor == "inception" else f"Fréchet distance ({extractor})"


def _write(folder: Path, rows: Sequence[Row], facts: dict[str, Any], extractor: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listed = [
        {**row._asdict(), "fid": row.fid._asdict(), "on_front": on_front}
        for row, on_front in zip(rows, front(rows), strict=True)
    ]
    content = {**facts, "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": listed}
    lines: dict[str, list[tuple[float, ...]]] = {}
    for row in sorted(rows, key=lambda row: row.steps):
        name = row.sampler if row.guidance == 1 else f"{row.sampler}, s = {row.guidance:g}"
        lines.setdefault(name, []).append((row.steps, row.seconds_per_image, *row.fid))
    edge = [
        (row.seconds_per_image, row.fid.value)
        for row, on_front in zip(rows, front(rows), strict=True)
        if on_front
    ]
    sweep_figure(lines, edge, folder / PICTURE, distance=distance_of(extractor))
    for name, text in (
        (TABLE_FILE, table(rows, extractor, num=facts["count"], reference=facts["reference"])),
        (SWEEP_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n"),  # a row stands now
    ):
        writing = folder / f".writing-{name}"
        writing.write_text(text, encoding="utf-8")
        writing.replace(folder / name)
