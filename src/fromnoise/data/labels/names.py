"""Convert label names to conditions, int8 vectors of +1 present, −1 absent, 0 unknown, and back."""

import difflib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.text import read_json

OPEN = "…"  # at the end of a description: the other labels are unknown


def parse_labels(text: str, names: Sequence[str]) -> np.ndarray:
    """Parse `red cube, -blue sphere`: +1 for the first, −1 for the second, 0 elsewhere; int8 (K,).

    names: the labels of the model, in its order. A "…" at the end, as `describe_labels` writes it,
    is ignored. Raises `DataError` for an unknown name, a repeated name, or an empty text.
    """
    condition = np.zeros(len(names), dtype=np.int8)
    for label in map(str.strip, text.removesuffix(f", {OPEN}").split(",")):
        negated = label.startswith("-") and label not in names
        k = label_index(label.removeprefix("-").strip() if negated else label, names)
        if condition[k]:
            raise DataError(f"{text!r} names the label {names[k]!r} twice. Remove one of them.")
        condition[k] = -1 if negated else 1
    return condition


def parse_weights(text: str, names: Sequence[str]) -> dict[str, float]:
    """Parse `red cube=3, blue sphere=-1` to {name: weight}, with the names as in `names`.

    Raises `DataError` for an unknown name, a repeated name, or a weight that is not a number.
    """
    weights: dict[str, float] = {}
    for item in map(str.strip, text.split(",")):
        label, equals, number = item.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not equals or not math.isfinite(weight):
            raise DataError(f"{item!r} has no weight. Write label=number, as in 'red cube=3'.")
        name = names[label_index(label.strip(), names)]
        if name in weights:
            raise DataError(f"{text!r} names the label {name!r} twice. Remove one of them.")
        weights[name] = weight
    return weights


def label_index(name: str, names: Sequence[str]) -> int:
    """Return the index of a label. `ankle-boot` matches `Ankle boot`.

    An exact match wins; otherwise the only name with the same letters and digits. Raises
    `DataError` with similar names if there is no match.
    """
    if name in names:
        return list(names).index(name)
    matches = [k for k, known in enumerate(names) if _simplify(known) == _simplify(name)]
    if len(matches) == 1:
        return matches[0]
    raise DataError(f"there is no label {name!r}. {suggest_labels(name, names)}".rstrip())


def exact_labels(present: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return +1 for the present labels and −1 for all others: int8 (K,).

    Raises `DataError` for an unknown or a repeated name.
    """
    condition = np.full(len(names), -1, dtype=np.int8)
    for name in present:
        k = label_index(name, names)
        if condition[k] > 0:
            raise DataError(f"the label {names[k]!r} is listed twice. Remove one of them.")
        condition[k] = 1
    return condition


def read_conditions(path: str | Path, label_names: Sequence[str]) -> np.ndarray:
    """Read a JSON list of conditions, as in i-CLEVR's test.json: int8 (N, K).

    A condition is a list of names, which are present (+1) while all others are absent (−1), or a
    text such as `red cube, -blue sphere`, which leaves the others unknown (0).

    label_names: the K labels of the model. Raises `DataError` if the file is not such a list, if
    the file or a condition is empty, and for an unknown or repeated name.
    """
    path = Path(path).expanduser().absolute()
    conditions = read_json(path, where=str(path))
    if not isinstance(conditions, list) or not conditions:
        raise DataError(
            f"{path} has no list of conditions. "
            'Write [["name", "name"], "name, -name", …], each a list or a text.'
        )
    rows = []
    for i, condition in enumerate(conditions, start=1):
        where = f"{path}: condition {i} of {len(conditions)}"
        texts = type(condition) in (list, str) and all(isinstance(c, str) for c in condition)
        if not condition or not texts:
            text = json.dumps(condition)
            raise DataError(f'{where}: {text} is invalid. Write ["name", …] or "name, -name".')
        parse = parse_labels if isinstance(condition, str) else exact_labels
        try:
            rows.append(parse(condition, label_names))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return np.stack(rows)


def one_label_each(names: Sequence[str], count: int) -> np.ndarray:
    """Return `count` conditions of one label each, cycling through the labels: int8 (count, K)."""
    return one_hot(np.arange(count) % len(names), len(names))


def describe_labels(condition: np.ndarray, names: Sequence[str]) -> str:
    """Describe a condition: `red cube, -blue sphere, …`. The dots mean that others are unknown.

    If every label is +1 or −1, and one is +1, only the names with +1 are listed: `red cube`.
    """
    present = [name for name, value in zip(names, condition, strict=True) if value > 0]
    absent = [f"-{name}" for name, value in zip(names, condition, strict=True) if value < 0]
    if len(present) + len(absent) == len(names):
        return ", ".join(present or absent)
    return ", ".join([*present, *absent, OPEN]) if present or absent else ""


def suggest_labels(name: str, names: Sequence[str]) -> str:
    """Return a hint for an error message: similar names, or the first 24 of all names."""
    containing = [known for known in names if name and name.lower() in known.lower()]
    close = [n for n in difflib.get_close_matches(name, names) if n not in containing]
    if similar := [*containing, *close]:
        return f"Did you mean {' or '.join(similar[:3])}?"
    listed = ", ".join(names[:24])
    return f"The labels are {listed}{', …' if len(names) > 24 else '.'}" if names else ""


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Return class numbers (N,) as int8 (N, count): +1 for the class, −1 for the others.

    A class of −1 is unknown, and gives zeros.
    """
    labels = np.full((len(classes), count), -1, dtype=np.int8)
    known = classes >= 0
    labels[~known] = 0
    labels[known, classes[known]] = 1
    return labels


def signs_of(values: np.ndarray, count: int | None = None) -> np.ndarray:
    """Return class numbers (N,), or signs (N, K) in which 0 means absent without any −1, as labels.

    count: the K of the classes, by default their highest number + 1.
    """
    if values.ndim == 1:
        return one_hot(values.astype(np.int64), count or int(values.max()) + 1)
    signs = values.astype(np.int8)
    return signs if signs.min() < 0 else signs * 2 - 1


def _simplify(name: str) -> str:
    """Keep letters and digits, and a leading minus, which negates a label."""
    return "-" * name.startswith("-") + re.sub(r"[\W_]+", "", name).casefold()
