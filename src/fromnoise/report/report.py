"""Write run folders as one HTML page."""

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from markupsafe import Markup

from fromnoise.checkpoints import atomic_file
from fromnoise.config.errors import ConfigError
from fromnoise.evaluation import label_evaluation
from fromnoise.evaluation.records import HEADINGS, INCEPTION_HEADINGS
from fromnoise.report import formatting
from fromnoise.report.charts import training_charts
from fromnoise.report.run_folder import RunFolder, all_keys, differences, read_run, short_names
from fromnoise.report.summary import RunSummary, summarize

if TYPE_CHECKING:  # jinja2 is slow to import
    from jinja2 import Template

REPORT = "report.html"
HERE = Path(__file__).parent
SCORES = ("fid", "fid_infinity", "kid", "inception_score", "precision", "recall")
HIGHER_IS_BETTER = ("inception_score", "precision", "recall")
SECTIONS = {  # one template each
    "differences": "Differences",
    "samples": "Samples from the same noise",
    "denoising": "Denoising",
    "training": "Training",
    "previews": "Previews over time",
    "metrics": "Metrics",
    "labels": "Label scores",
    "copies": "Closest copies",
    "sweep": "Sampler sweep",
    "recipe": "Recipe",
    "environment": "Environment",
}
BITS_NAMES = {
    "total": "bits/dim",
    "L_T": Markup("of these L<sub>T</sub>"),
    "middle": Markup("of these L<sub>1</sub> … L<sub>T−1</sub>"),
    "L_0": Markup("of these L<sub>0</sub>"),
}


def write_report(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
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
    names = short_names(folders)
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    summaries = [
        summarize(run, i, progress=lambda done, of, i=i: progress(i * of + done, len(runs) * of))
        for i, run in enumerate(runs)
    ]
    with atomic_file(out) as writing:
        writing.write_text(_render(runs, summaries), encoding="utf-8")
    return out.absolute()


def _render(runs: Sequence[RunFolder], summaries: Sequence[RunSummary]) -> str:
    recipes = [run.recipe for run in runs]
    labelled = any(run.labels for run in summaries) or any(r.get("data.labels") for r in recipes)
    hidden = {"differences": len(runs) == 1, "labels": not labelled}
    differing = differences(recipes)
    columns = [(run, record) for run in summaries for record in run.metrics]
    scores = {key for _, record in columns for key in record.content.scores}
    sets = [record.content for _, record in columns if record.content.extractor]  # not of bits only
    inception = {content.extractor.get("name") for content in sets} == {"inception"}
    protocols = {repr((content.extractor, content.reference)) for content in sets}
    counts = {content.generated.get("count") for content in sets}
    return _template().render(
        title=_join([run.name for run in runs]),
        sections={k: name for k, name in SECTIONS.items() if not hidden.get(k)},
        runs=summaries,
        recipes=recipes,
        all_keys=all_keys(recipes),
        differing=differing,
        different_loss=any(key.startswith("diffusion.") for key in differing),
        different_shape=len({run.shape for run in summaries if run.shape}) > 1,
        charts=training_charts(runs),
        columns=columns,
        scores=[*SCORES, *sorted(scores - {*SCORES})],
        different_protocol=len(protocols) > 1,
        different_count=len(counts) > 1,
        names=HEADINGS | {"bits": "bits/dim"} | (INCEPTION_HEADINGS if inception else {}),
        arrows={key: "↑" if key in HIGHER_IS_BETTER else "↓" for key in (*SCORES, "total")},
        label_score_names=label_evaluation.HEADINGS,
        bits_names=BITS_NAMES,
        distance_name=formatting.distance_name,
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
    environment.filters |= {
        "number": formatting.number,
        "interval": formatting.interval,
        "setting": formatting.setting,
        "facts": formatting.facts,
    }
    return environment.get_template("page.html.jinja")


def _join(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _environment() -> dict[str, str]:
    """Return when and on which machine the page was written."""
    cuda = torch.cuda.is_available()
    return {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "fromnoise": version("fromnoise"),
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        "GPU": torch.cuda.get_device_name() if cuda else "none",
    }
