"""Label files beside images: `labels.json`, `labels.csv`, and `dataset.json` of EDM and StyleGAN.

A reader takes the text of one and `where`, with which its errors begin. It returns the signs of
each file that is named, int8 (K,): +1 present, -1 absent, 0 not said; and the names of the K
labels. Files are named by their paths from the folder of the label file, "/" between the steps.
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
from fromnoise.data.text import natural_key, strict_json

Table = tuple[dict[str, np.ndarray], tuple[str, ...]]

FILE_COLUMNS = ("file", "filename", "image", "path")
LIST_COLUMNS = ("label", "labels")
CELLS = {  # with ".0" as pandas writes a column that has gaps
    **dict.fromkeys(("1", "+1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "-1", "0.0", "-1.0", "false", "no"), -1),
    "": 0,
}
_MOST_CLASSES = 65_536
_OR_RENAME = "; rename it where it is not meant for labels"


def labels_json(text: str, *, where: str) -> Table:
    """{file: [names]}, or {file: "name"}: "name" is present, "-name" absent; in natural order.

    Where no image of the whole file says a "-name", what an image does not name is absent (-1),
    as in i-CLEVR's train.json, and so an empty list says that it has none of the labels. Where
    any image does, what is not named is not said (0).

    Raises `DataError` for other shapes, for a file or a name that is said twice and for an empty
    name.
    """
    said = strict_json(text, where=where)
    if not isinstance(said, dict) or not said:
        raise DataError(f'{where} is not {{"file": ["name", …], …}}{_OR_RENAME}')
    named = {}
    for file, names in said.items():
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f'{where}: {file!r}: {_short(names)} is not a list of names: ["name", …]'
                + _OR_RENAME
            )
        named[file] = _signs(names, where=f"{where}: {file!r}")
    return _complete(named, where=where)


def labels_csv(text: str, *, where: str) -> Table:
    """A header, and one line for each image; the first column, `file`, names it.

    Either one more column `labels`: names with ";" or "," between them, which mean what a list in
    labels.json does. Or one column for each label, its name in the header, and in that order: 1,
    true or yes is present, 0, -1, false or no absent, and an empty cell not said.

    Raises `DataError` for other headers, lines and values, and for what is said twice.
    """
    columns, rows = _csv_rows(text, where=where)
    if len(columns) == 1 and columns[0].lower() in LIST_COLUMNS:
        named = {}
        for file, (line, (cell,)) in rows.items():
            named[file] = _signs(re.split("[;,]", cell) if cell else [], where=line)
        return _complete(named, where=where)
    label_names = unique(columns, where=f"{where}: the header")
    for line, cells in rows.values():
        for column, cell in zip(columns, cells, strict=True):
            if cell.lower() not in CELLS:
                raise DataError(
                    f"{line}: {column!r} is {_short(cell)}; allowed: 1, true, yes; "
                    "0, -1, false, no; or nothing, where it is not said"
                )
    signs = [[CELLS[cell.lower()] for cell in cells] for _, cells in rows.values()]
    return dict(zip(rows, np.array(signs, dtype=np.int8), strict=True)), label_names


def dataset_json(text: str, *, where: str) -> Table:
    """{"labels": [["file", label], …]} as EDM and StyleGAN write it; {"labels": null} has none.

    A label is a class, 0..K-1, or in all entries a list of K signs, where 0 is absent if no -1 is
    among all of them. The labels are called "0".."K-1", or as a list "label_names" says, which is
    ours: EDM and StyleGAN neither write nor read it.

    Raises `DataError` for other shapes and numbers, and for what is said twice.
    """
    said = strict_json(text, where=where)
    entries = said.get("labels", ()) if isinstance(said, dict) else ()
    if entries is None:
        return {}, ()
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f'{where} is not {{"labels": [["file", 0], …]}} or {{"labels": null}}{_OR_RENAME}'
        )
    names = said.get("label_names")
    if names is not None:
        if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
            raise DataError(f'{where}: "label_names" is {_short(names)}; allowed: ["name", …]')
        names = unique(names, where=f'{where}: "label_names"')
    labels: dict[str, Any] = {}
    for i, entry in enumerate(entries, start=1):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise DataError(f'{where}: entry {i}: {_short(entry)} is not ["file", label]')
        file, label = entry
        if file in labels:
            raise DataError(f"{where}: entry {i} says {file!r} twice; say each file once")
        labels[file] = label
    read = _vectors if isinstance(entries[0][1], list) else _classes
    signs = read(labels, names, where=where)
    count = signs.shape[1]
    return dict(zip(labels, signs, strict=True)), tuple(names or map(str, range(count)))


LABEL_FILES: dict[str, Callable[..., Table]] = {
    "labels.json": labels_json,
    "labels.csv": labels_csv,
    "dataset.json": dataset_json,
}


def _signs(names: Sequence[str], *, where: str) -> dict[str, int]:
    """+1 for each name, -1 for each "-name"."""
    signs: dict[str, int] = {}
    for word in map(str.strip, names):
        name = word.removeprefix("-").strip()
        if not name:
            raise DataError(f"{where} has the empty name {word!r}; leave it out")
        if name in signs:
            raise DataError(f"{where} says {name!r} twice; say each name once")
        signs[name] = 1 if word == name else -1
    return signs


def _complete(named: Mapping[str, Mapping[str, int]], *, where: str) -> Table:
    """The signs of what images name, with those of what they do not name; see `labels_json`."""
    names = {name for signs in named.values() for name in signs}
    if not names:
        raise DataError(f"{where} names no label for any image; name one at least")
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
        lines = [
            (f"{where}: line {reader.line_num}", row)
            for row in reader
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num}: {error}") from error
    line, header = lines[0] if lines else (where, [])
    first, *columns = [name.strip() for name in header] or [""]
    if first.lower() not in FILE_COLUMNS or not columns:
        raise DataError(
            f"{line} has the columns {_short(header)}; allowed: first {', '.join(FILE_COLUMNS)}; "
            f"then labels, or one column for each label; a comma between them{_OR_RENAME}"
        )
    rows = {}
    for line, (file, *cells) in lines[1:]:
        if len(cells) != len(columns):
            raise DataError(
                f"{line} has {len(cells) + 1} cells for {len(header)} columns; "
                'a cell with a comma inside is written "a, b"'
            )
        if not file:
            raise DataError(f"{line} names no file in the column {first!r}")
        if file in rows:
            raise DataError(f"{line} says {file!r} twice; one line for each file")
        rows[file] = line, [cell.strip() for cell in cells]
    if not rows:
        raise DataError(f"{where} has a header and no lines below; one line for each image")
    return columns, rows


def _classes(
    labels: Mapping[str, Any], names: Sequence[str] | None, *, where: str
) -> np.ndarray:  # int8 (n, K)
    allowed = len(names) if names else _MOST_CLASSES
    for i, (file, label) in enumerate(labels.items(), start=1):
        if type(label) is not int or not 0 <= label < allowed:
            raise DataError(
                f"{where}: entry {i} ({file!r}): {_short(label)} is not a class; "
                f"allowed: whole numbers in 0..{allowed - 1}"
                + (', which "label_names" has names for' if names else "")
            )
    classes = np.array(list(labels.values()))
    return one_hot(classes, len(names) if names else int(classes.max()) + 1)


def _vectors(
    labels: Mapping[str, Any], names: Sequence[str] | None, *, where: str
) -> np.ndarray:  # int8 (n, K)
    count = len(names) if names else len(next(iter(labels.values())))
    for i, (file, vector) in enumerate(labels.items(), start=1):
        right = isinstance(vector, list) and len(vector) == count and count > 0
        if not right or not all(type(v) in (int, float) and v in (-1, 0, 1) for v in vector):
            raise DataError(
                f"{where}: entry {i} ({file!r}): {_short(vector)} is not allowed; allowed: lists "
                f"of {count or 'K'} numbers, each -1, 0 or 1, "
                + ('as "label_names" has names' if names else "as long as that of entry 1")
            )
    signs = np.array(list(labels.values())).astype(np.int8)
    return signs if signs.min() < 0 else signs * 2 - 1  # without any -1, 0 says "absent"


def unique(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """The names without what surrounds them. DataError for one that is empty or said twice."""
    names = tuple(name.strip() for name in names)
    if not all(names):
        raise DataError(f"{where} has an empty name; give every label a name")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"{where} says {twice[0]!r} twice; say each name once")
    return names


def _short(value: Any) -> str:
    """The value as JSON, cut: whole data sets are written in one value too."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
