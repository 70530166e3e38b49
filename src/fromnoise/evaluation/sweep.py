"""Sweep samplers, step counts and guidance: quality against cost, by the same seeds.

sweep-…/sweep.json    a row per sampling configuration, written after each of them
        sweep.md      the same as a table
        sweep.png     distance against seconds per image, with the Pareto front

The same sweep into the same folder resumes after the last row.
"""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import migrate_extractor, migrate_section
from fromnoise.config.schema import SamplingConfig
from fromnoise.curves import save_png, sweep_axes
from fromnoise.data.text import read_json
from fromnoise.evaluation.features import check_installed, digest, extract_features, open_extractor
from fromnoise.evaluation.images import generate_images, has_labels, load_in_fp32, run_images_of
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.metrics import (
    Jackknifed,
    blocks_of,
    fid_intervals,
    frechet_jackknifed,
    ratio,
)
from fromnoise.evaluation.records import describe_reference, plain, to_json, write_files
from fromnoise.evaluation.reference import describe, open_real, open_reference, reference_from_npz
from fromnoise.evaluation.sets import check_enough_images
from fromnoise.model.model import Model
from fromnoise.model.sampling import SHAPES_OF_GUIDANCE
from fromnoise.model.spec import Weights, run_folder_of
from fromnoise.progress import progress_bar

DEFAULT_COUNT = 1000  # images per configuration
SWEEP_FILE, TABLE_FILE, PICTURE = "sweep.json", "sweep.md", "sweep.png"
logger = logging.getLogger("fromnoise")


class Row(NamedTuple):
    """The cost of one sampling configuration, and its distance to the real images."""

    sampler: str
    steps: int
    guidance: float
    seconds_per_image: float
    fid: Interval  # the Fréchet distance in the features of an extractor
    left_out: Sequence[float] = ()  # the same without each block of seeds; older files have none

    def name(self, *, steps: bool = True) -> str:
        """Return `ddim 50`, or with guidance `ddim 50, s = 2`."""
        name = f"{self.sampler} {self.steps}" if steps else self.sampler
        return name if self.guidance == 1 else f"{name}, s = {self.guidance:g}"


def sweep_to_folder(
    path: Path,
    *,
    samplers: Sequence[str],
    steps: Sequence[int],
    scales: Sequence[float] = (),
    num: int | None = None,
    reference: str = "train",
    extractor: str | None = None,
    classifier: Path | None = None,
    features_weights: Path | None = None,
    allow_small: bool = False,
    batch_size: int = 64,
    weights: Weights | None = None,
    out: Path | None = None,
    save_best: Path | None = None,
    device: str = "auto",
    sampling: Mapping[str, Any] | None = None,
) -> tuple[str, Path]:
    """Sweep the sampling of a model, and return the table and its folder.

    scales: of guidance; none for the model's own. num: images per configuration; 1,000, or one per
    feature if there are more. save_best: where to write the model with the best configuration as
    its default. Others as in `evaluate`.
    """
    check_installed()
    if save_best is not None and save_best.suffix != ".safetensors":
        raise ConfigError(f"--save-best {save_best} is not a model file. Name it FILE.safetensors.")
    if save_best is not None and save_best.exists():
        raise ConfigError(f"--save-best {save_best.absolute()} exists. Give a new name.")
    model = load_in_fp32(path, weights=weights, device=device)
    run = run_folder_of(path)
    real = open_real(reference, model.image_shape, model.spec, run_images_of(run))
    guided = has_labels(model, real)
    if scales and not guided:
        raise ConfigError(
            f"--guidance has no effect: the images of --reference {reference} lack the labels of "
            "the model. Remove --guidance, or use --reference train."
        )
    combinations = dict.fromkeys(itertools.product(samplers, steps, scales or [None]))
    configs = []
    for sampler, count, scale in combinations:
        settings = {**(sampling or {}), "sampler": sampler, "steps": count, "guidance": scale}
        configs.append(model.sampling_config(conditional=guided, **settings))
    space = open_extractor(
        extractor,
        model.image_shape,
        classifier=classifier,
        features_weights=features_weights,
        device=device,
    )
    num = num or max(DEFAULT_COUNT, space.width)
    parts = ["sweep", f"{model.spec.step:06d}", configs[0].precision, space.name, str(num)]
    folder = out or run / "evaluation" / "-".join(parts)
    check_enough_images(
        num, None if real is None else len(real.images), space, allow_small=allow_small
    )
    facts = {  # all that the rows depend on
        "versions": {name: version(name) for name in ("fromnoise", "torch")},
        "model": digest(model.denoiser),
        **model.spec.weights_info(),
        "sampling": [config.model_dump(mode="json") for config in configs],
        "count": num,
        "batch_size": batch_size,
        "reference": describe(real) if real else reference_from_npz(Path(reference), space).info,
        "extractor": space.info(),
        "device": str(model.device),
    }
    if rows := read_rows(folder, facts):
        logger.info("%d of %d rows are in %s", len(rows), len(configs), folder.absolute())
    facts["loaded from"] = str(path.absolute())
    against = open_reference(reference, real, space)
    warm_up = {"steps": 1, "precision": configs[0].precision}
    model.sample(range(min(batch_size, num)), batch_size=batch_size, **warm_up)
    for config in configs[len(rows) :]:
        with progress_bar(f"images by {config.sampler.name} {config.steps}") as progress:
            generated = generate_images(
                model, num, config, labels_of=real, batch_size=batch_size, progress=progress
            )
        blocks = blocks_of(extract_features(space, generated.images))
        distance = frechet_jackknifed(blocks, against.mean, against.covariance)
        assert generated.seconds is not None
        row = Row(
            config.sampler.name,
            config.steps,
            config.guidance if guided else 1.0,
            generated.seconds / num,
            fid_intervals(distance)[0],
            distance.left_out.tolist(),
        )
        rows.append(row)
        facts["complete"] = len(rows) == len(configs)
        write_sweep(folder, rows, facts, space.name)
    row = best(rows)
    note = f"best: {row.name()}, the fastest within the interval of the smallest distance"
    if save_best is not None:
        file = with_default(model, configs[rows.index(row)], guided=guided).save(save_best)
        note += f"; the default of {file.absolute()}"
    text = table(rows, space.name, num=num, reference=against.info)
    return f"{text}\n{note}\n", folder


def with_default(model: Model, config: SamplingConfig, *, guided: bool = True) -> Model:
    """Return the same model with other default settings; guided: those of guidance too."""
    kept = {"precision"} if guided else {"precision", "guidance", *SHAPES_OF_GUIDANCE}
    stored = config.model_copy(update=model.spec.sampling.model_dump(include=kept))
    return Model(model.denoiser, model.spec.model_copy(update={"sampling": stored}))


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
    points = [(row.seconds_per_image, row.fid.value) for row in rows]
    return [not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in points) for a in points]


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
        times = relative_distance(row, rows)
        fid = "{:.4g} [{:.4g}, {:.4g}]".format(*row.fid)
        more = "" if times is None else "{:.3g} [{:.3g}, {:.3g}]".format(*times)
        cells = (f"{bold}{row.name()}{bold}", f"{row.seconds_per_image:.3g}", fid, more)
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
    listed = [plain(row) | {"on_front": on_front} for row, on_front in marked]
    content = {**facts, "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": listed}
    lines: dict[str, list[tuple[float, ...]]] = {}
    for row in sorted(rows, key=lambda row: row.steps):
        lines.setdefault(row.name(steps=False), []).append(
            (row.steps, row.seconds_per_image, *row.fid)
        )
    edge = [(row.seconds_per_image, row.fid.value) for row, on_front in marked if on_front]
    title = "Quality against cost (numbers: steps; grey: Pareto front)"
    label = f"{distance_name(extractor)} (lower is better)"
    save_png(sweep_axes(lines, edge), folder / PICTURE, title=title, y_label=label)
    text = table(rows, extractor, num=facts["count"], reference=facts["reference"])
    write_files(folder, {TABLE_FILE: text, SWEEP_FILE: to_json(content)})  # in this order
