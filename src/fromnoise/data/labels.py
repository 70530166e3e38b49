"""Labels of images: names and conditions, and label files.

Conditions are int8 vectors of +1 present, −1 absent, 0 unknown, or text: `describe_labels`.

A reader of a label file (`labels.json`, `labels.csv`, or the `dataset.json` of EDM and StyleGAN)
takes the text of the file, and `where`, the beginning of its error messages. It returns
{file: int8 (K,)} and the names of the K labels. Files are paths from its folder, separated by "/".
"""

import csv
import difflib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.text import composed, natural_key, parse_json, read_json
from fromnoise.progress import printable

OPEN = "…"  # at the end of a description: the other labels are unknown
Table = tuple[dict[str, np.ndarray], tuple[str, ...]]
FILE_COLUMNS = ("file", "filename", "image", "path")
LIST_COLUMNS = ("label", "labels")
CELLS = {  # with ".0", as pandas writes a column with missing values
    **dict.fromkeys(("1", "+1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "-1", "0.0", "-1.0", "false", "no"), -1),
    "": 0,
}
MAX_CLASSES = 65_536
_OR_RENAME = ", or rename the file if it does not contain labels."


def parse_labels(text: str, names: Sequence[str]) -> np.ndarray:
    """Parse `red cube, -blue sphere`: +1 for the first, −1 for the second, 0 elsewhere; int8 (K,).

    names: the labels of the model, in its order. A "…" at the end, as `describe_labels` writes it,
    is ignored. Of names that contain commas, the longest that fits is taken. Raises `DataError` for
    an unknown name, a repeated name, or an empty text.
    """
    condition = np.zeros(len(names), dtype=np.int8)
    for label in split_labels(text.removesuffix(f", {OPEN}"), names):
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
    for item in split_labels(text, names):
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


def split_labels(text: str, names: Sequence[str]) -> list[str]:
    """Split a text at its commas, but not inside a name, with or without its "-" or "=number"."""
    parts, items = composed(text).split(","), []
    longest = 1 + max((name.count(",") for name in names), default=0)
    while parts:
        for count in range(min(longest, len(parts)), 0, -1):
            item = ",".join(parts[:count]).strip()
            label, _, weight = item.rpartition("=")
            name = {item, item.removeprefix("-").strip(), "" if "," in weight else label.strip()}
            if count == 1 or not name.isdisjoint(names):
                break
        items.append(item)
        parts = parts[count:]
    return items


def label_index(name: str, names: Sequence[str]) -> int:
    """Return the index of a label. `ankle-boot` matches `Ankle boot`.

    An exact match wins; otherwise the only name with the same letters and digits. Raises
    `DataError` with similar names if there is no match.
    """
    if name in names:
        return list(names).index(name)
    wanted = _simplify(name)
    matches = [k for k, known in enumerate(names) if wanted and _simplify(known) == wanted]
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
    return "-" * name.startswith("-") + re.sub(r"[\W_]+", "", composed(name)).casefold()


def labels_json(text: str, *, where: str) -> Table:
    """Read {file: [names]} or {file: "name"}: "name" is present, "-name" is absent.

    If no image of the file has a "-name", the labels that an image does not name are absent (−1),
    as in i-CLEVR's train.json; an empty list then means that all labels are absent. If any image
    has a "-name", the labels that an image does not name are unknown (0). Names have natural order.

    Raises `DataError` for other shapes, and for repeated or empty names.
    """
    lists = lists_of_names(parse_json(text, where=where), where=where, or_rename=_OR_RENAME)
    places = {file: (f"{where}: {file!r}", names) for file, names in lists.items()}
    return _to_table(places, where=where)


def lists_of_names(content: Any, *, where: str, or_rename: str = ".") -> dict[str, list[str]]:
    """Check {file: [names]}, or {file: "name"}. `or_rename` ends the messages of a `DataError`."""
    if not isinstance(content, dict) or not content:
        raise DataError(
            f'{where} is not a table of labels. Write {{"file": ["name", …], …}}{or_rename}'
        )
    lists = {}
    for file, names in content.items():
        lists[file] = [names] if isinstance(names, str) else names
        if not _are_texts(lists[file]):
            raise DataError(
                f"{where}: {file!r}: {_short(names)} is not a list of names. "
                f'Write ["name", …]{or_rename}'
            )
    return lists


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def labels_csv(text: str, *, where: str) -> Table:
    """Read a header, then one line per image. The first column, `file`, names the image.

    Two layouts: either one more column `labels`, with names separated by ";" or ",", as in the
    lists of labels.json; or one column per label, named in the header, in that order. There 1,
    true or yes is present, 0, -1, false or no is absent, and an empty cell is unknown.

    Raises `DataError` for other headers, lines and values, and for repeated names.
    """
    columns, rows = _csv_rows(text, where=where)
    if len(columns) == 1 and columns[0].lower() in LIST_COLUMNS:
        lists = {
            file: (line, re.split("[;,]", cell) if cell else [])
            for file, (line, (cell,)) in rows.items()
        }
        return _to_table(lists, where=where)
    label_names = unique_names(columns, where=f"{where}: the header")
    for line, cells in rows.values():
        for column, cell in zip(columns, cells, strict=True):
            if cell.lower() not in CELLS:
                raise DataError(
                    f"{line}: {column!r} is {_short(cell)}. Write 1, true or yes if present, "
                    "0, -1, false or no if absent, and nothing if unknown."
                )
    signs = [[CELLS[cell.lower()] for cell in cells] for _, cells in rows.values()]
    return dict(zip(rows, np.array(signs, dtype=np.int8), strict=True)), label_names


def dataset_json(text: str, *, where: str) -> Table:
    """Read {"labels": [["file", label], …]} of EDM and StyleGAN; {"labels": null} has no labels.

    Each label is a class 0..K−1, or each is a list of K numbers, as the first one says. In these
    lists 0 is absent if the file contains no −1, and unknown otherwise. The labels are named
    "0".."K−1", or by a list "label_names", our extension, which EDM and StyleGAN do not know.

    Raises `DataError` for other shapes and numbers, and for repeated names.
    """
    content = parse_json(text, where=where)
    entries = content.get("labels", ()) if isinstance(content, dict) else ()
    if entries is None:
        return {}, ()
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f'{where} has no list of labels. Write {{"labels": [["file", 0], …]}} or '
            f'{{"labels": null}}{_OR_RENAME}'
        )
    if (names := content.get("label_names")) is not None:
        if not names or not _are_texts(names):
            raise DataError(f'{where}: "label_names" is {_short(names)}. Write ["name", …].')
        names = unique_names(names, where=f'{where}: "label_names"')
    labels: dict[str, Any] = {}
    for i, entry in enumerate(entries, start=1):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise DataError(f'{where}: entry {i} is {_short(entry)}. Write ["file", label].')
        file, label = entry
        if file in labels:
            raise DataError(f"{where}: entry {i} has the file {file!r} again. Remove one of them.")
        labels[file] = label
        first = entries[0][1]
        lists = isinstance(first, list)
        count = len(names) if names else len(first) if lists else MAX_CLASSES
        numbers = isinstance(label, list) and len(label) == count > 0
        signs = numbers and all(type(v) in (int, float) and v in (-1, 0, 1) for v in label)
        if not (signs if lists else type(label) is int and 0 <= label < count):
            expected = f"whole number in 0..{count - 1}"
            if lists:
                expected = f"list of {count or 'K'} numbers, each -1, 0 or 1, as many as in entry 1"
            raise DataError(
                f"{where}: entry {i} ({file!r}): {_short(label)} is invalid. Write a {expected}"
                + (', one per name in "label_names".' if names else ".")
            )
    signs = signs_of(np.array(list(labels.values())), len(names) if names else None)
    return dict(zip(labels, signs, strict=True)), tuple(names or map(str, range(signs.shape[1])))


LABEL_FILES: dict[str, Callable[..., Table]] = {
    "labels.json": labels_json,
    "labels.csv": labels_csv,
    "dataset.json": dataset_json,
}


def _to_table(lists: Mapping[str, tuple[str, Sequence[str]]], *, where: str) -> Table:
    """Convert {file: (where, names)} to a table, as `labels_json` describes."""
    named: dict[str, dict[str, int]] = {}
    for file, (place, names) in lists.items():
        named[file] = {}
        for label in map(label_name, names):
            name = label.removeprefix("-").strip()
            if not name:
                raise DataError(f"{place} has the empty name {label!r}. Remove it.")
            if name in named[file]:
                raise DataError(f"{place} has the label {name!r} twice. Remove one of them.")
            named[file][name] = 1 if label == name else -1
    every = {name for signs in named.values() for name in signs}
    if not every:
        raise DataError(f"{where} has no label for any image. Add at least one label.")
    label_names = sorted(every, key=lambda name: (natural_key(name), name))
    negated = any(sign < 0 for signs in named.values() for sign in signs.values())
    if len(label_names) > MAX_CLASSES:
        raise DataError(
            f"{where} has {len(label_names):,} labels, and at most {MAX_CLASSES:,} are possible. "
            "Give names that images share."
        )
    column = {name: k for k, name in enumerate(label_names)}
    table = np.full((len(named), len(column)), 0 if negated else -1, dtype=np.int8)
    for row, signs in zip(table, named.values(), strict=True):
        row[[column[name] for name in signs]] = list(signs.values())
    return dict(zip(named, table, strict=True)), tuple(label_names)


def _csv_rows(
    text: str, *, where: str
) -> tuple[list[str], dict[str, tuple[str, list[str]]]]:  # columns, {file: (where, cells)}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        numbered = ((f"{where}: line {reader.line_num}", row) for row in reader)
        lines = [(line, row) for line, row in numbered if any(map(str.strip, row))]
    except csv.Error as error:
        problem = f"{where}: line {reader.line_num} is not valid CSV"
        raise DataError(f"{problem}: {error}. Correct it.") from error
    line, header = lines[0] if lines else (where, [])
    first, *columns = [name.strip() for name in header] or [""]
    if first.lower() not in FILE_COLUMNS or not columns:
        raise DataError(
            f"{line} has the columns {_short(header)}. Write {', '.join(FILE_COLUMNS[:-1])} or "
            f"{FILE_COLUMNS[-1]} first, then labels or one column per label, separated by commas"
            f"{_OR_RENAME}"
        )
    rows = {}
    for line, (file, *cells) in lines[1:]:
        if len(cells) != len(columns):
            raise DataError(
                f"{line} has {len(cells) + 1} cells, but the header has {len(header)}. "
                'Write a cell that contains a comma as "a, b".'
            )
        if not file:
            raise DataError(f"{line} has no file in the column {first!r}. Add its name.")
        if file in rows:
            raise DataError(f"{line} has the file {file!r} again. Remove one of the lines.")
        rows[file] = line, [cell.strip() for cell in cells]
    if not rows:
        raise DataError(f"{where} has only a header. Add one line per image.")
    return columns, rows


def unique_names(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Return each `label_name`. Raises `DataError` if one is empty or repeated."""
    names = tuple(map(label_name, names))
    if not all(names):
        raise DataError(f"{where} has an empty name. Give every label a name.")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"{where} has the name {twice[0]!r} twice. Rename or remove one of them.")
    return names


def label_name(text: str) -> str:
    """Return the name of a label as it is stored: one line, without spaces around it, in NFC.

    A byte that is not UTF-8 and a control character become escapes: see `printable`.
    """
    return printable(composed(text).strip())


def _short(value: Any) -> str:
    """Return the value as JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
