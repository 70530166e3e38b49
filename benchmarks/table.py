"""Regenerate the tables of docs/performance.md from results/*.json.

The tables of results/NAME.json are between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
RESULTS = HERE / "results"
LONGER = 1.1  # times the limit, from which a time counts as longer
OURS, HELPED = "fromnoise", ", helped"  # a contestant, and a suffix of the names of others
FLOOR = "floor"  # the contestant of contestants/floor.py
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end of \2 -->)", flags=re.DOTALL)


def page_with_tables(page: str, results: Path) -> str:
    """Return the page with the tables between its markers replaced by those of the results.

    Without a file of results the text is "Not measured." Raises ValueError for a marker without an
    end.
    """
    if names := set(re.findall(r"<!-- (\w+) -->", page)) - {m[1] for m in MARKED.findall(page)}:
        name = sorted(names)[0]
        raise ValueError(f"<!-- {name} --> has no <!-- end of {name} --> after it. Add it.")

    def fill(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        file = results / f"{name}.json"
        if not file.exists():
            return f"{start}\nNot measured.\n\n{end}"
        return f"{start}\n{of_file(json.loads(file.read_text(encoding='utf-8')))}\n\n{end}"

    return MARKED.sub(fill, page)


def of_file(figures: Mapping[str, Any]) -> str:
    """Return the tables of one file of results, and a line on the machine and versions."""
    if "works" in figures:
        tables = []
        for title, contestants in figures["works"].items():
            tables.append(of_work(title, contestants))
            if note := figures.get("notes", {}).get(title):
                tables.append(note)
    elif "drawings" in figures:
        tables = [of_contest(figures)]
    elif "choices" in figures:
        tables = [of_choices(figures)]
    else:
        tables = [of_shares(figures["shares"])]
    return "\n\n".join([*tables, measured_with(figures)])


def of_work(title: str, contestants: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of images per second, and the speed of the first relative to each other one.

    The ratios are those of each round. For the floor the row has the inverse: the time relative to
    it.
    """
    lines = [
        f"| {title} | how | images/s | fromnoise is faster by | memory |",
        "|---|---|---|---|---|",
    ]
    first = next(iter(contestants.values()))["images_per_second"]
    for i, (name, one) in enumerate(contestants.items()):
        rates = one["images_per_second"]
        times = [mine / other for mine, other in zip(first, rates, strict=True)]
        faster = f"{spread(times)} ×" if i else ""
        if name == FLOOR:
            faster = f"takes {over(times)} × as long"
        lines.append(
            f"| {name} | {one['how']} | {spread(rates)} | {faster} | {one['peak_gib']:.2f} GiB |"
        )
    return "\n".join(lines)


def over(times: Sequence[float]) -> str:
    """Return the spread of the times relative to another one's, given the ratios of speed."""
    return spread([1 / faster for faster in times])


def of_shares(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of periodic work, in seconds and in percent of the training time."""
    lines = [
        "| | time per step | duration | every | share of training time |",
        "|---|---|---|---|---|",
    ]
    for title, one in shares.items():
        lines.append(
            f"| {title} | {spread(one['step_seconds'])} s | {spread(one['seconds'])} s "
            f"| {one['every']:,} steps | {100 * share(one):.2g} % |"
        )
    return "\n".join(lines)


def of_contest(figures: Mapping[str, Any]) -> str:
    """Return the tables of time_to_quality.py: the distances of each program, by sampling."""
    parts = []
    for drawing in figures["drawings"]:
        limit = drawing["seconds"]
        lines = [
            f"| {figures['minutes']:g} minutes each; {drawing['num']:,} images {drawing['drawn']}, "
            "own samplers | parameters | trained on | sampled in | Fréchet distance |",
            "|---|---|---|---|---|",
        ]
        for one, trained in figures["training"].items():
            made = drawing[one]
            images = trained["steps"] * trained["batch_size"]
            late = limit is not None and made["seconds"] > LONGER * limit
            fewer = f" of {made['count']:,} images" if made["count"] < drawing["num"] else ""
            lines.append(
                f"| {one} | {trained['parameters']:,} "
                f"| {images:,} images, {short(images / trained['seconds'])} per second "
                f"| {made['steps']} steps of {made['sampler']}, {made['seconds']:,.0f} s"
                f"{' (over the limit)' if late else ''} "
                f"| {interval(made['frechet_distance'])}{fewer} |"
            )
        parts.append("\n".join(lines))
        values = {one: drawing[one]["frechet_distance"]["value"] for one in figures["training"]}
        ours = values.pop(OURS)
        with_help = {one for one in values if one.endswith(HELPED)}
        plain = ours / min(values[one] for one in values.keys() - with_help)
        line = f"The distance of {OURS} is {short(plain)} × the smallest one of the other programs"
        if with_help:
            best = min(values[one] for one in with_help)
            line += f", and {short(ours / best)} × the smallest one of the helped programs"
        parts.append(f"{line}.")
    parts.append(f"{against(figures)} The recipe of {OURS} is `{figures['recipe']}`.")
    parts += [f"{one}: {trained['how']}." for one, trained in figures["training"].items()]
    return "\n\n".join(parts)


def of_choices(figures: Mapping[str, Any]) -> str:
    """Return the table of recipe_choices.py: the distance of the images with each choice."""
    lines = [
        f"| `{figures['recipe']}`, {figures['minutes']:g} minutes | steps | Fréchet distance |",
        "|---|---|---|",
    ]
    for choice, one in figures["choices"].items():
        lines.append(f"| {choice} | {one['steps']:,} | {interval(one['frechet_distance'])} |")
    return "\n".join(lines) + "\n\n" + for_scale(figures)


def for_scale(figures: Mapping[str, Any]) -> str:
    """Return the number of images, and what they were compared with."""
    return f"{figures['num']:,} images each. {against(figures)}"


def against(figures: Mapping[str, Any]) -> str:
    """Return the number of training images, and the distance of held-out ones for comparison."""
    return (
        f"The distances are to {figures['training_images']:,} training images. That of "
        f"{figures['held_out_images']:,} held-out real images is "
        f"{interval(figures['real_images'])}."
    )


def interval(found: Mapping[str, float]) -> str:
    """Return a value with its 95 % interval."""
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def share(one: Mapping[str, Any]) -> float:
    """Return the share of periodic work in the time of `every` steps and that work; medians."""
    once = median(one["seconds"])
    return once / (one["every"] * median(one["step_seconds"]) + once)


def spread(figures: Sequence[float]) -> str:
    """Return `median (minimum to maximum)` in three digits, or a single figure alone."""
    if len(figures) == 1:
        return short(figures[0])
    return f"{short(median(figures))} ({short(min(figures))} to {short(max(figures))})"


def short(figure: float) -> str:
    """Round to three digits: 1234.5 → 1,234; 12.345 → 12.3; 0.12345 → 0.123."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def measured_with(figures: Mapping[str, Any]) -> str:
    """Return the line below the tables: the machine and the packages."""
    line = figures["machine"]
    for whose, found in figures.get("versions", {}).items():
        packages = ", ".join(f"{package} {number}" for package, number in found.items())
        line += f"; {whose} with {packages}"
    return f"Measured on {line}."


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
