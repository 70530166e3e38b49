"""Run folders → one HTML page. What they hold is gathered elsewhere; templates lay it out."""

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from markupsafe import Markup

from fromnoise.checkpoints import fsync
from fromnoise.config.errors import ConfigError
from fromnoise.evaluation.label_evaluation import HEADINGS as LABEL_HEADINGS
from fromnoise.evaluation.records import HEADINGS, OF_INCEPTION, OF_METRICS
from fromnoise.report.figures import distance_name, training_charts
from fromnoise.report.formatting import facts, interval, number, setting
from fromnoise.report.run_folder import (
    RunFolder,
    all_keys,
    differences,
    names_of,
    read_run,
)
from fromnoise.report.shown import FORMULA, Shown, show

if TYPE_CHECKING:  # jinja2 is imported when a page is made
    from jinja2 import Template

REPORT = "report.html"
HERE = Path(__file__).parent
HIGHER = ("inception_score", "precision", "recall")  # is better
SECTIONS = {  # a template each
    "differences": "Differences",
    "samples": "Samples on the same noise",
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
BITS = {
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
    """Write one self-contained HTML page about one or several runs, and return its path.

    Samples of the seeds 0, 1, … are drawn for it from each run's newest whole checkpoint.

    out: by default `report.html` in the first run; replaced only once the page is whole. progress
    is called with (denoising steps done, of how many).
    Raises ConfigError where a folder is no run, is given twice, and where `out` is a folder or does
    not end in .html.
    """
    out = folders[0] / REPORT if out is None else out
    if out.is_dir():
        raise ConfigError(f"{out.absolute()} is a folder; give --out a file, as in {REPORT}")
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(
            f"--out {out} does not end in .html, by which browsers know a page; give it that ending"
        )
    runs = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    shown = []
    for i, run in enumerate(runs):

        def count(done: int, total: int, before: int = i) -> None:
            progress(before * total + done, len(runs) * total)

        shown.append(show(run, i, progress=count))
    _write(out, _render(runs, shown))
    return out.absolute()


def _render(runs: Sequence[RunFolder], shown: Sequence[Shown]) -> str:
    recipes = [run.recipe for run in runs]
    labelled = any(run.labels for run in shown) or any(r.get("data.labels") for r in recipes)
    unfit = {"differences": len(runs) == 1, "labels": not labelled}
    differing = differences(recipes)
    columns = [(run, one) for run in shown for one in run.metrics]
    measured = {key for _, one in columns for key in one.content.scores}
    sets = [one.content for _, one in columns if one.content.extractor]  # not of bits alone
    inception = {content.extractor.get("name") for content in sets} == {"inception"}
    metric_names = HEADINGS | (OF_INCEPTION if inception else {})
    yardsticks = {repr((content.extractor, content.reference)) for content in sets}
    counts = {content.generated.get("count") for content in sets}
    return _template().render(
        title=_in_words([run.name for run in runs]),
        sections={k: name for k, name in SECTIONS.items() if not unfit.get(k)},
        runs=shown,
        recipes=recipes,
        all_keys=all_keys(recipes),
        differing=differing,
        other_loss=any(key.startswith("diffusion.") for key in differing),
        other_shape=len({run.shape for run in shown if run.shape}) > 1,
        charts=training_charts(runs),
        columns=columns,
        scores=[*HEADINGS, *sorted(measured - HEADINGS.keys())],
        other_yardstick=len(yardsticks) > 1,
        other_count=len(counts) > 1,
        metric_names=metric_names,
        missing_names=OF_METRICS,
        arrows={key: "↑" if key in HIGHER else "↓" for key in (*HEADINGS, "total")},
        label_names=LABEL_HEADINGS,
        bits_names=BITS,
        distance_name=distance_name,
        environment=_environment(),
        formula=FORMULA,
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
        "number": number,
        "interval": interval,
        "setting": setting,
        "facts": facts,
    }
    return environment.get_template("page.html.jinja")


def _in_words(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _environment() -> dict[str, str]:
    """Where and when the page was made."""
    cuda = torch.cuda.is_available()
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "fromnoise": version("fromnoise"),
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        "GPU": torch.cuda.get_device_name() if cuda else "none",
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.writing")
    writing.write_text(text, encoding="utf-8")
    fsync(writing)
    os.replace(writing, path)
