"""Sweep samplers, step counts and guidance: quality against cost, by the same seeds.

sweep-…/sweep.json    a row per sampling configuration, written after each of them, and the
                      timesteps of `--search-times`
        sweep.md      the same as a table
        sweep.png     distance against seconds per image, with the Pareto front

The same sweep into the same folder resumes after the last row.
"""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fromnoise.checkpoints import hash_of, require_room, size_of
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig, is_list
from fromnoise.curves import save_png, sweep_axes
from fromnoise.diffusion import NoiseSchedule
from fromnoise.evaluation import features, images, records
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.metrics import blocks_of, frechet_scores, ratio
from fromnoise.evaluation.records import Row, Search, describe_reference
from fromnoise.evaluation.sets import check_enough_images
from fromnoise.evaluation.time_search import (
    TRAJECTORIES,
    candidate_times,
    check_searchable,
    search_times,
)
from fromnoise.model.model import Model
from fromnoise.model.sampling import SHAPES_OF_GUIDANCE
from fromnoise.model.spec import run_folder_of
from fromnoise.progress import progress_bar

DEFAULT_COUNT = 1000  # images per configuration
PICTURE = "sweep.png"
Lines = dict[str, list[tuple[float, ...]]]
logger = logging.getLogger("fromnoise")


def sweep_to_folder(
    path: Path,
    against: features.Against,
    drawing: images.Drawing,
    *,
    samplers: Sequence[str],
    steps: Sequence[int],
    scales: Sequence[float] = (),
    search: bool = False,
    num: int | None = None,
    out: Path | None = None,
    save_best: Path | None = None,
) -> tuple[str, Path]:
    """Sweep the sampling of a model, and return the table and its folder.

    scales: of guidance; none for the model's own. search: add a row at the best timesteps to each
    at those of the rule; see `time_search`. num: images per configuration; 1,000, or one per
    feature if there are more. save_best: where to write the model with the best configuration as
    its default.
    """
    features.check_installed()
    if save_best is not None and save_best.suffix != ".safetensors":
        raise ConfigError(f"--save-best {save_best} is not a model file. Name it FILE.safetensors.")
    if save_best is not None and save_best.exists():
        raise ConfigError(f"--save-best {save_best.absolute()} exists. Give a new name.")
    model = images.load_in_fp32(path, drawing)
    run = run_folder_of(path)
    run_images = images.run_images_of(run)
    real = images.open_real(against.reference, model.image_shape, model.spec, run_images)
    guided = images.has_labels(model, real)
    if scales and not guided:
        raise ConfigError(
            f"--guidance has no effect: the images of --reference {against.reference} lack the "
            "labels of the model. Remove --guidance, or use --reference train."
        )
    schedule = model.denoiser.schedule
    rule = drawing.sampling.get("timesteps", model.spec.sampling.rule)
    if is_list(rule):
        raise ConfigError("timesteps is a list, but a sweep sets the steps. Name a rule.")
    combinations = dict.fromkeys(itertools.product(samplers, steps, scales or [None]))
    configs = []
    for sampler, count, scale in combinations:
        settings = {**drawing.sampling, "sampler": sampler, "steps": count, "guidance": scale}
        settings["timesteps"] = rule
        configs.append(model.sampling_config(conditional=guided, **settings))
    if search:
        check_searchable(configs, schedule)
    space = features.open_extractor(against, model.image_shape, drawing.device)
    num = num or max(DEFAULT_COUNT, space.width)
    batch_size = drawing.batch_size or images.BATCH_SIZE
    parts = ["sweep", f"{model.spec.step:06d}", configs[0].precision, space.name, str(num)]
    parts += ["searched"] if search else []
    file = (out or run / "evaluation" / "-".join(parts)) / records.SWEEP_FILE
    check_enough_images(num, real, space, allow_small=against.allow_small)
    require_room(file)
    if save_best is not None:
        require_room(save_best, size_of(model.content()))
    facts = {  # all that the rows depend on
        "versions": records.versions("fromnoise", "torch"),
        "model": hash_of(model.denoiser.state_dict()),
        **model.spec.weights_info(),
        "sampling": [config.model_dump(mode="json") for config in configs],
        "count": num,
        "batch_size": batch_size,
        "reference": images.describe(real)
        if real
        else images.reference_from_npz(against.reference, space).info,
        "extractor": space.info(),
        "device": str(model.device),
    }
    if search:
        found = _search_before(file, configs, schedule, facts)
        if found is None:
            labels = images.labels_like(real, model, TRAJECTORIES)
            found = search_times(model, configs, cond=labels, first_seed=num)
        facts["search"] = found.model_dump()
        configs = [each for config in configs for each in (config, found.at_found(config)) if each]
        facts["sampling"] = [config.model_dump(mode="json") for config in configs]
    if rows := read_rows(file, facts):
        logger.info("%d of %d rows are in %s", len(rows), len(configs), file.parent.absolute())
    facts["loaded from"] = str(path.absolute())
    if search and not file.exists():  # so that it is not repeated
        content = {**facts, "complete": False, "date": records.now(), "rows": rows}
        records.write_record(file, content, table(rows, facts))
    known = images.open_reference(against.reference, real, space)
    warm_up = {"steps": 1, "timesteps": rule, "precision": configs[0].precision}
    model.sample(range(min(batch_size, num)), batch_size=batch_size, **warm_up)
    for config in configs[len(rows) :]:
        times = list(config.timesteps) if is_list(config.timesteps) else []
        what = f"images by {config.sampler.name} {config.steps}" + ", searched times" * bool(times)
        with progress_bar(what) as progress:
            generated = images.generate_images(
                model, num, config, labels_of=real, batch_size=batch_size, progress=progress
            )
        blocks = blocks_of(features.extract_features(space, generated.images).features)
        distance = frechet_scores(blocks, known.mean, known.covariance)
        assert generated.seconds is not None
        row = Row(
            sampler=config.sampler.name,
            steps=config.steps,
            guidance=config.guidance if guided else 1.0,
            timesteps=times,
            seconds_per_image=generated.seconds / num,
            fid=distance.fid,
            left_out=distance.left_out.tolist(),
        )
        rows.append(row)
        facts["complete"] = len(rows) == len(configs)
        write_sweep(file, rows, facts)
    row = best(rows)
    note = f"best: {row.name()}, the fastest within the interval of the smallest distance"
    if save_best is not None:
        kept = {"precision"} if guided else {"precision", "guidance", *SHAPES_OF_GUIDANCE}
        usual = model.spec.sampling.model_dump(include=kept)
        default = configs[rows.index(row)].model_copy(update=usual)
        spec = model.spec.model_copy(update={"sampling": default})
        saved = Model(model.denoiser, spec).save(save_best)
        note += f"; the default of {saved.absolute()}"
    return f"{table(rows, facts)}\n{note}\n", file.parent


def _search_before(
    file: Path, configs: Sequence[SamplingConfig], schedule: NoiseSchedule, facts: Mapping[str, Any]
) -> Search | None:
    """Return the search of a sweep in `file` that has the times of all `configs`.

    None if there is no file. Raises ConfigError if the sweep there is another one.
    """
    if not file.exists():
        return None
    stored = records.read_record(file, where=str(file.absolute()))
    empty = Search(candidates=candidate_times(schedule), trajectories=TRAJECTORIES)
    with suppress(AttributeError, ValidationError):
        found = Search.model_validate(stored.get("search"))
        alike = found.model_copy(update={"found": []}) == empty
        if alike and all(found.at_found(config) for config in configs):
            return found
    read_rows(file, {**facts, "search": empty.model_dump()})
    return None


def read_rows(file: Path, facts: Mapping[str, Any]) -> list[Row]:
    """Return the rows that an interrupted sweep with the same facts left in `file`.

    Raises ConfigError if the sweep there differs, and names what differs.
    """
    if not file.exists():
        return []
    stored = records.read_record(file, where=str(file.absolute()))
    stored = stored if isinstance(stored, dict) else {}
    if other := [key for key, fact in facts.items() if stored.get(key) != fact]:
        raise ConfigError(
            f"{file.parent.absolute()} has a sweep with another {', '.join(other)}. Give another "
            "--out, or remove it."
        )
    return [Row.model_validate(row) for row in stored["rows"]]


def front(rows: Sequence[Row]) -> list[bool]:
    """Return which rows are on the Pareto front: no other is both faster and nearer."""
    points = [(row.seconds_per_image, row.fid.value) for row in rows]
    return [not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in points) for a in points]


def best(rows: Sequence[Row]) -> Row:
    """Return the fastest row whose distance is within the interval of the smallest one.

    Of rows that differ only in their timesteps, which cost the same, it is the nearest.
    """
    smallest = min(rows, key=lambda row: row.fid.value)
    good = [row for row in rows if row.fid.value <= smallest.fid.high]
    fastest = min(good, key=lambda row: row.seconds_per_image)
    others = [row for row in good if row.timesteps != fastest.timesteps]
    same_cost = [row for row in others if row.cost == fastest.cost]
    return min([fastest, *same_cost], key=lambda row: row.fid.value)


def relative_distance(row: Row, rows: Sequence[Row]) -> Interval:
    """Return a row's distance over the smallest one, by the same seeds; NaN without blocks.

    The smallest of several is biased low, so the ratios are slightly too large.
    """
    nearest = min(rows, key=lambda row: row.fid.value)
    if row is nearest:
        return Interval(1.0, 1.0, 1.0)
    if not row.left_out or not nearest.left_out:
        return Interval()
    return ratio(*((r.fid.value, np.array(r.left_out)) for r in (row, nearest)))


def table(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Return the rows in Markdown, the fastest first, those on the front bold.

    facts: those of the record, with `extractor`, `count` and `reference`.
    """
    lines = [
        f"| sampler and steps | seconds per image | {distance_name(facts)} | × the nearest |",
        "|---|---|---|---|",
    ]
    on_front = front(rows)
    for i in np.argsort([row.seconds_per_image for row in rows]):
        row, bold = rows[i], "**" if on_front[i] else ""
        times = relative_distance(row, rows)
        fid = "{:.4g} [{:.4g}, {:.4g}]".format(*row.fid)
        more = "" if math.isnan(times.value) else "{:.3g} [{:.3g}, {:.3g}]".format(*times)
        cells = (f"{bold}{row.name()}{bold}", f"{row.seconds_per_image:.3g}", fid, more)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Bold: no other row is both faster and nearer to the real images (Pareto front).",
        "× the nearest: the distance over the smallest one, by the same seeds.",
        f"{facts['count']:,} images per row, timed once; {describe_reference(facts['reference'])}.",
    ]
    for row in rows:
        if row.timesteps and row.sampler == rows[0].sampler:
            scale = "" if row.guidance == 1 else f", s = {row.guidance:g}"
            times = ", ".join(map(str, row.timesteps))
            lines.append(f"Searched times, {row.steps} steps{scale}: {times}.")
    return "\n".join(lines) + "\n"


def distance_name(facts: Mapping[str, Any]) -> str:
    """Return the name of the Fréchet distance in the features of a sweep."""
    extractor = facts["extractor"]["name"]
    heading = records.headings_in(extractor)["fid"]
    return heading if extractor == "inception" else f"{heading} ({extractor})"


def write_sweep(file: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write sweep.png, sweep.md and sweep.json, each complete or not at all."""
    of_front = zip(rows, front(rows), strict=True)
    rows = [row.model_copy(update={"on_front": on_front}) for row, on_front in of_front]
    content = {**facts, "date": records.now(), "rows": rows}
    title = "Quality against cost (numbers: steps; grey: Pareto front)"
    label = f"{distance_name(facts)} (lower is better)"
    save_png(sweep_axes(*drawn(rows)), file.with_name(PICTURE), title=title, y_label=label)
    records.write_record(file, content, table(rows, facts))


def drawn(rows: Sequence[Row]) -> tuple[Lines, list[tuple[float, float]]]:
    """Return the lines and the Pareto front for `sweep_axes`."""
    lines: Lines = {}
    for row in sorted(rows, key=lambda row: row.steps):
        if not math.isnan(row.fid.value):
            point = (row.steps, row.seconds_per_image, *row.fid.known())
            lines.setdefault(row.name(steps=False), []).append(point)
    return lines, [(row.seconds_per_image, row.fid.value) for row in rows if row.on_front]
