"""Read label files: `labels.json`, `labels.csv`, and the `dataset.json` of EDM and StyleGAN.

A reader takes the text of a file, and `where`, the beginning of its error messages. It returns
{file: int8 (K,)} with +1 present, −1 absent and 0 unknown, and the names of the K labels. Files are
paths relative to the folder of the label file, separated by "/".
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels.names import one_hot
from fromnoise.data.text import natural_key, parse_json

Table = tuple[dict[str, np.ndarray], tuple[str, ...]]

FILE_COLUMNS = ("file", "filename", "image", "path")
LIST_COLUMNS = ("label", "labels")
CELLS = {  # with ".0", as pandas writes a column with missing values
    **dict.fromkeys(("1", "+1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "-1", "0.0", "-1.0", "false", "no"), -1),
    "": 0,
}
_MAX_CLASSES = 65_536
_OR_RENAME = ", or rename the file if it does not contain labels."


def labels_json(text: str, *, where: str) -> Table:
    """Read {file: [names]} or {file: "name"}: "name" is present, "-name" is absent.

    If no image of the file has a "-name", the labels that an image does not name are absent (−1),
    as in i-CLEVR's train.json; an empty list then means that all labels are absent. If any image
    has a "-name", the labels that an image does not name are unknown (0). The label names are
    sorted in natural order.

    Raises `DataError` for other shapes, and for repeated or empty names.
    """
    content = parse_json(text, where=where)
    if not isinstance(content, dict) or not content:
        raise DataError(
            f'{where} is not a table of labels. Write {{"file": ["name", …], …}}{_OR_RENAME}'
        )
    named = {}
    for file, names in content.items():
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{where}: {file!r}: {_short(names)} is not a list of names. "
                f'Write ["name", …]{_OR_RENAME}'
            )
        named[file] = _signs(names, where=f"{where}: {file!r}")
    return _to_table(named, where=where)


def labels_csv(text: str, *, where: str) -> Table:
    """Read a header, then one line per image. The first column, `file`, names the image.

    Two layouts: either one more column `labels`, with names separated by ";" or ",", as in the
    lists of labels.json; or one column per label, named in the header, in that order. There 1,
    true or yes is present, 0, -1, false or no is absent, and an empty cell is unknown.

    Raises `DataError` for other headers, lines and values, and for repeated names.
    """
    columns, rows = _csv_rows(text, where=where)
    if len(columns) == 1 and columns[0].lower() in LIST_COLUMNS:
        named = {}
        for file, (line, (cell,)) in rows.items():
            named[file] = _signs(re.split("[;,]", cell) if cell else [], where=line)
        return _to_table(named, where=where)
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

    Each label is a class 0..K−1, or each is a list of K numbers. In these lists 0 is absent if the
    file contains no −1, and unknown otherwise. The labels are named "0".."K−1", or by a list
    "label_names", our extension, which EDM and StyleGAN neither write nor read.

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
    names = content.get("label_names")
    if names is not None:
        if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
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
    signs = _numbers(labels, names, where=where)
    return dict(zip(labels, signs, strict=True)), tuple(names or map(str, range(signs.shape[1])))


LABEL_FILES: dict[str, Callable[..., Table]] = {
    "labels.json": labels_json,
    "labels.csv": labels_csv,
    "dataset.json": dataset_json,
}


def _signs(names: Sequence[str], *, where: str) -> dict[str, int]:
    """Return +1 for each "name", −1 for each "-name"."""
    signs: dict[str, int] = {}
    for label in map(str.strip, names):
        name = label.removeprefix("-").strip()
        if not name:
            raise DataError(f"{where} has the empty name {label!r}. Remove it.")
        if name in signs:
            raise DataError(f"{where} has the label {name!r} twice. Remove one of them.")
        signs[name] = 1 if label == name else -1
    return signs


def _to_table(named: Mapping[str, Mapping[str, int]], *, where: str) -> Table:
    """Fill in the signs of the labels that an image does not name, as `labels_json` describes."""
    names = {name for signs in named.values() for name in signs}
    if not names:
        raise DataError(f"{where} has no label for any image. Add at least one label.")
    label_names = tuple(sorted(names, key=lambda name: (natural_key(name), name)))
    number = {name: k for k, name in enumerate(label_names)}
    negated = any(sign < 0 for signs in named.values() for sign in signs.values())
    table = np.full((len(named), len(number)), 0 if negated else -1, dtype=np.int8)
    for row, signs in zip(table, named.values(), strict=True):
        row[[number[name] for name in signs]] = list(signs.values())
    return dict(zip(named, table, strict=True)), label_names


def _csv_rows(
    text: str, *, where: str
) -> tuple[list[str], dict[str, tuple[str, list[str]]]]:  # columns, {file: (where, cells)}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        numbered = ((f"{where}: line {reader.line_num}", row) for row in reader)
        lines = [(line, row) for line, row in numbered if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num}: {error}") from error
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


def _numbers(
    labels: Mapping[str, Any], names: Sequence[str] | None, *, where: str
) -> np.ndarray:  # int8 (n, K)
    """Convert classes, or lists of K numbers; the first label says which of the two they are."""
    first = next(iter(labels.values()))
    lists = isinstance(first, list)
    count = len(names) if names else len(first) if lists else _MAX_CLASSES

    def valid(label: Any) -> bool:
        if lists:
            numbers = isinstance(label, list) and len(label) == count > 0
            return numbers and all(type(v) in (int, float) and v in (-1, 0, 1) for v in label)
        return type(label) is int and 0 <= label < count

    for i, (file, label) in enumerate(labels.items(), start=1):
        if not valid(label):
            expected = f"whole number in 0..{count - 1}"
            if lists:
                expected = f"list of {count or 'K'} numbers, each -1, 0 or 1, as many as in entry 1"
            raise DataError(
                f"{where}: entry {i} ({file!r}): {_short(label)} is invalid. Write a {expected}"
                + (', one per name in "label_names".' if names else ".")
            )
    values = np.array(list(labels.values()))
    if not lists:
        return one_hot(values, len(names) if names else int(values.max()) + 1)
    signs = values.astype(np.int8)
    return signs if signs.min() < 0 else signs * 2 - 1  # without any -1, 0 means absent


def unique_names(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Strip the names. Raises `DataError` if one is empty or repeated."""
    names = tuple(name.strip() for name in names)
    if not all(names):
        raise DataError(f"{where} has an empty name. Give every label a name.")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"{where} has the name {twice[0]!r} twice. Rename or remove one of them.")
    return names


def _short(value: Any) -> str:
    """Return the value as JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
