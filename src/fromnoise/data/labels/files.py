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
from fromnoise.data.labels.names import signs_of
from fromnoise.data.text import natural_key, parse_json

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


def labels_json(text: str, *, where: str) -> Table:
    """Read {file: [names]} or {file: "name"}: "name" is present, "-name" is absent.

    If no image of the file has a "-name", the labels that an image does not name are absent (−1),
    as in i-CLEVR's train.json; an empty list then means that all labels are absent. If any image
    has a "-name", the labels that an image does not name are unknown (0). The label names are
    sorted in natural order.

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
    "0".."K−1", or by a list "label_names", our extension, which EDM and StyleGAN neither write nor
    read.

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
        for label in map(str.strip, names):
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
    unnamed = 0 if negated else -1
    signs = [[signs.get(name, unnamed) for name in label_names] for signs in named.values()]
    return dict(zip(named, np.array(signs, np.int8), strict=True)), tuple(label_names)


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
