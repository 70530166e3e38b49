"""Write docs/components.md: every component by name, with its options and their defaults.

make docs
python docs/components.py
"""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fromnoise.config.components import NOT_OPTIONS
from fromnoise.data.sources import SOURCES
from fromnoise.diffusion import (
    LOSSES,
    NOISE_LEVELS,
    OWN,
    SAMPLERS,
    SCHEDULES,
    TIMESTEPS,
    WEIGHTINGS,
)
from fromnoise.evaluation import features
from fromnoise.evaluation.sets import METRICS
from fromnoise.networks import NETWORKS

FIXED = NOT_OPTIONS | {"device"}
PAGE = Path(__file__).with_suffix(".md")
INTRODUCTION = """# Components

Everything that you choose by name, with its options and their defaults. `docs/components.py` writes
this page from the code; do not edit it. [The family](family.md) has the equations and pictures,
and [CONTRIBUTING](../CONTRIBUTING.md#add-a-component) says how to add one.

A component with options is written `{name: NAME, option: value}` in a recipe, and
`KEY=NAME KEY.option=value` on the command line, as in
`diffusion.schedule=warmup diffusion.schedule.fraction=0.2`. `fromnoise sample` takes the options of
the sampler as bare keys: `sampler=ddim eta=1`.
"""
EXTRACTORS = {
    "inception": features.inception,
    "dinov2": features.dinov2,
    "classifier": features.classifier_features,
    "pixels": features.pixels,
}
TABLES: list[tuple[str, str, str, Mapping[str, Callable[..., Any]]]] = [
    ("Schedules", "`diffusion.schedule`", "SCHEDULES", SCHEDULES),
    ("Predictions", "`diffusion.prediction`", "OWN", OWN),
    ("Losses", "`diffusion.loss`, or `vlb`, the variational bound", "LOSSES", LOSSES),
    ("Weightings", "`diffusion.weighting`", "WEIGHTINGS", WEIGHTINGS),
    ("Noise levels", "`training.noise_levels`", "NOISE_LEVELS", NOISE_LEVELS),
    ("Networks", "`network`", "NETWORKS", NETWORKS),
    ("Samplers", "`sampling.sampler`", "SAMPLERS", SAMPLERS),
    ("Timesteps", "`sampling.timesteps`", "TIMESTEPS", TIMESTEPS),
    ("Sources", "`data.source`", "SOURCES", SOURCES),
    ("Metrics", "`fromnoise evaluate --metrics`", "METRICS", METRICS),
    ("Extractors", "`--extractor`, `evaluation.extractor`", "EXTRACTORS", EXTRACTORS),
]


def summary(component: Callable[..., Any]) -> str:
    """Return the first paragraph of the docstring, as one line."""
    return (inspect.getdoc(component) or "").partition("\n\n")[0].replace("\n", " ")


def type_name(annotation: Any) -> str:
    """Return `float`, `list of int`, or the allowed values of a Literal."""
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        return ", ".join([*map(type_name, rest), *["null"] * (type(None) in arguments)])
    if arguments:
        return f"list of {type_name(arguments[0])}"
    return annotation.__name__


def options(component: Callable[..., Any]) -> str:
    """Return the keyword-only parameters with defaults and types: `eta=0.0` (float)."""
    cells = []
    for parameter in inspect.signature(component).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in FIXED:
            default = "…"
            if parameter.default is not parameter.empty:
                default = json.dumps(parameter.default, separators=(",", ":")).strip('"')
            text = f"{parameter.name}={default}"
            cells.append(f"`{text}` ({type_name(parameter.annotation)})")
    return "<br>".join(cells)


def table(title: str, key: str, name: str, components: Mapping[str, Callable[..., Any]]) -> str:
    """Return a section: a row for each component, with a link to its file."""
    with_options = any(map(options, components.values()))
    head = ["name", "", "in the code"] + ["options"] * with_options
    lines = [f"## {title}", "", f"Key: {key}. Dict: `{name}`.", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for choice, component in components.items():
        file = component.__module__.replace(".", "/") + ".py"
        row = [f"`{choice}`", summary(component), f"[`{component.__name__}`](../src/{file})"]
        row += [options(component)] * with_options
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(table(*each) for each in TABLES)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
