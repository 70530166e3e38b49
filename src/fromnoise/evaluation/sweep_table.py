"""Read, rank and write the rows of a sweep: sweep.json, sweep.md and sweep.png."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import migrate_extractor, migrate_section
from fromnoise.curves import sweep_figure
from fromnoise.data.text import read_json
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.metrics import Jackknifed, ratio
from fromnoise.evaluation.records import describe_reference, to_json, write_files

SWEEP_FILE, TABLE_FILE, PICTURE = "sweep.json", "sweep.md", "sweep.png"


class Row(NamedTuple):
    """The cost of one sampling configuration, and its distance to the real images."""

    sampler: str
    steps: int
    guidance: float
    seconds_per_image: float
    fid: Interval  # the Fréchet distance in the features of an extractor
    left_out: Sequence[float] = ()  # the same without each block of seeds; older files have none


def read_rows(folder: Path, facts: Mapping[str, Any]) -> list[Row]:
    """Return the rows that an interrupted sweep with the same facts left in `folder`.

    Raises ConfigError if the sweep there differs, and names what differs.
    """
    file = folder / SWEEP_FILE
    if not file.exists():
        return []
    stored = _migrate(read_json(file, where=str(file.absolute())))
    if other := [key for key, fact in facts.items() if stored.get(key) != fact]:
        raise ConfigError(
            f"{folder.absolute()} has a sweep with another {', '.join(other)}. Give another --out, "
            "or remove it."
        )
    rows = [{key: row[key] for key in Row._fields if key in row} for row in stored["rows"]]
    return [Row(**{**row, "fid": Interval(**row["fid"])}) for row in rows]


def _migrate(stored: Any) -> dict[str, Any]:
    """Return the content of sweep.json with today's keys."""
    if not isinstance(stored, dict):
        return {}
    if "ways" in stored:
        precision = {"precision": stored.pop("precision", "fp32")}  # older files have none
        sections = [migrate_section("sampling", section) for section in stored.pop("ways")]
        stored["sampling"] = [section | precision for section in sections]
    return {**stored, "extractor": migrate_extractor(stored.get("extractor", {}))}


def front(rows: Sequence[Row]) -> list[bool]:
    """Return which rows are on the Pareto front: no other is both faster and nearer."""

    def beaten(row: Row, by: Row) -> bool:
        a, b = ((r.seconds_per_image, r.fid.value) for r in (row, by))
        return b[0] <= a[0] and b[1] <= a[1] and b != a

    return [not any(beaten(row, other) for other in rows) for row in rows]


def best(rows: Sequence[Row]) -> Row:
    """Return the fastest row whose distance is within the interval of the smallest one."""
    smallest = min(rows, key=lambda row: row.fid.value)
    good = [row for row in rows if row.fid.value <= smallest.fid.high]
    return min(good, key=lambda row: row.seconds_per_image)


def relative_distance(row: Row, rows: Sequence[Row]) -> Interval | None:
    """Return a row's distance over the smallest one, by the same seeds; None without blocks.

    The smallest of several is biased low, so the ratios are slightly too large.
    """
    nearest = min(rows, key=lambda row: row.fid.value)
    if row is nearest:
        return Interval(1.0, 1.0, 1.0)
    if not row.left_out or not nearest.left_out:
        return None
    times = ratio(*(Jackknifed(r.fid.value, np.array(r.left_out)) for r in (row, nearest)))
    return None if math.isnan(times.value) else times


def row_name(row: Row) -> str:
    """Return `ddim 50`, or with guidance `ddim 50, s = 2`."""
    name = f"{row.sampler} {row.steps}"
    return name if row.guidance == 1 else f"{name}, s = {row.guidance:g}"


def table(rows: Sequence[Row], extractor: str, *, num: int, reference: Mapping[str, Any]) -> str:
    """Return the rows in Markdown, the fastest first, those on the front bold.

    num: images per row. reference: `Reference.info`.
    """
    lines = [
        f"| sampler and steps | seconds per image | {distance_name(extractor)} | × the nearest |",
        "|---|---|---|---|",
    ]
    on_front = front(rows)
    for i in np.argsort([row.seconds_per_image for row in rows]):
        row, bold = rows[i], "**" if on_front[i] else ""
        fid = f"{row.fid.value:.4g} [{row.fid.low:.4g}, {row.fid.high:.4g}]"
        times = relative_distance(row, rows)
        more = "" if times is None else f"{times.value:.3g} [{times.low:.3g}, {times.high:.3g}]"
        cells = (f"{bold}{row_name(row)}{bold}", f"{row.seconds_per_image:.3g}", fid, more)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Bold: no other row is both faster and nearer to the real images (Pareto front).",
        "× the nearest: the distance over the smallest one, by the same seeds.",
        f"{num:,} images per row, timed once; {describe_reference(reference)}.",
    ]
    return "\n".join(lines) + "\n"


def distance_name(extractor: str) -> str:
    """Return the name of the Fréchet distance in some features: FID in those of Inception."""
    return "FID" if extractor == "inception" else f"Fréchet distance ({extractor})"


def write_sweep(
    folder: Path, rows: Sequence[Row], facts: Mapping[str, Any], extractor: str
) -> None:
    """Write sweep.png, sweep.md and sweep.json, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    marked = list(zip(rows, front(rows), strict=True))
    listed = [
        {**row._asdict(), "fid": row.fid._asdict(), "on_front": on_front}
        for row, on_front in marked
    ]
    content = {**facts, "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": listed}
    lines: dict[str, list[tuple[float, ...]]] = {}
    for row in sorted(rows, key=lambda row: row.steps):
        name = row.sampler if row.guidance == 1 else f"{row.sampler}, s = {row.guidance:g}"
        lines.setdefault(name, []).append((row.steps, row.seconds_per_image, *row.fid))
    edge = [(row.seconds_per_image, row.fid.value) for row, on_front in marked if on_front]
    sweep_figure(lines, edge, folder / PICTURE, distance=distance_name(extractor))
    text = table(rows, extractor, num=facts["count"], reference=facts["reference"])
    write_files(folder, {TABLE_FILE: text, SWEEP_FILE: to_json(content)})  # in this order
