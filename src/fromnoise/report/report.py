"""Write run folders as one HTML page."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fromnoise.checkpoints import atomic_file
from fromnoise.config.errors import ConfigError
from fromnoise.curves import COLOURS
from fromnoise.evaluation.records import HEADINGS, LABEL_HEADINGS, headings_in
from fromnoise.progress import Progress, format_duration, no_progress
from fromnoise.report import charts, formatting
from fromnoise.report.run_folder import RunFolder, all_keys, differences, read_run, short_names

if TYPE_CHECKING:  # jinja2 is slow to import
    from jinja2 import Template

REPORT = "report.html"
HERE = Path(__file__).parent


def write_report(
    folders: Sequence[Path], out: Path | None = None, *, progress: Progress = no_progress
) -> Path:
    """Write a self-contained HTML page about one or several runs and return its path.

    The newest checkpoint of each run is sampled with the seeds 0, 1, ….

    out: by default `report.html` in the first run. It is replaced atomically. progress is called
    with (denoising steps done, total).
    Raises ConfigError if a folder is not a run or is given twice, and if `out` is a folder or does
    not end in .html.
    """
    out = folders[0] / REPORT if out is None else out
    if out.is_dir():
        raise ConfigError(f"{out.absolute()} is a folder. Give --out a file such as {REPORT}.")
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out is {out}. Give a file name that ends in .html.")
    colours = cycle(COLOURS)
    runs = [read_run(*of) for of in zip(folders, short_names(folders), colours, strict=False)]
    for i, run in enumerate(runs):
        run.sample(progress=lambda done, of, i=i: progress(i * of + done, len(runs) * of))
    with atomic_file(out) as writing:
        writing.write_text(_render(runs), encoding="utf-8")
    return out.absolute()


def _render(runs: Sequence[RunFolder]) -> str:
    recipes = [run.recipe for run in runs]
    columns = [(run, record) for run in runs for record in run.records["metrics"]]
    scores = {key for _, record in columns for key in record.content.scores}
    sets = [record.content for _, record in columns if record.content.extractor]  # not bits alone
    extractors = {content.extractor.get("name") for content in sets}
    return _template().render(
        runs=runs,
        recipes=recipes,
        all_keys=all_keys(recipes),
        differing=differences(recipes),
        charts=charts.training_charts(runs),
        columns=columns,
        known_scores=HEADINGS,
        scores=[*HEADINGS, *sorted(scores - {*HEADINGS})],
        different_protocol=len({repr((of.extractor, of.reference)) for of in sets}) > 1,
        different_count=len({of.generated.get("count") for of in sets}) > 1,
        names=headings_in(extractors.pop() if len(extractors) == 1 else None),
        labelled=any(run.records["scores"] or run.recipe.get("data.labels") for run in runs),
        label_headings=LABEL_HEADINGS,
        headings_in=headings_in,
        sweep_chart=charts.sweep_chart,
        bits_chart=charts.bits_chart,
        environment=_environment(),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
    )


def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    of_text = (formatting.number, formatting.interval, formatting.setting, formatting.facts)
    environment.filters |= {of.__name__: of for of in (*of_text, charts.css_class)}
    environment.filters |= {"duration": format_duration, "inline": formatting.inline_grid}
    return environment.get_template("page.html.jinja")


def _environment() -> dict[str, str]:
    """Return the date, the versions and the machine of the page."""
    return {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "fromnoise": version("fromnoise"),
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
