"""Lists of conditions: what the images that are to be drawn shall show."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels import exactly, nearest, parse_labels
from fromnoise.data.strict_json import read_json


def read_conditions(path: str | Path, label_names: Sequence[str]) -> np.ndarray:
    """The conditions of a JSON list, as i-CLEVR's test.json is one: int8 (N, K).

    Each of them is a list of names, which are present (+1) while all others are absent (−1); or a
    text as in `red cube, -blue sphere`, which leaves the others open (0).

    label_names: the K labels of the model. Raises `DataError` where the file is no such list, where
    it or a condition is empty, and for a name that is unknown or said twice.
    """
    path = Path(path).expanduser().absolute()
    conditions = read_json(path, where=str(path))
    if not isinstance(conditions, list) or not all(isinstance(c, list | str) for c in conditions):
        raise DataError(f'{path} is not a list of conditions: [["name", "name"], "name, -name", …]')
    if not conditions:
        raise DataError(f"{path} has no conditions; it is an empty list")
    rows = []
    for i, names in enumerate(conditions, start=1):
        where = f"{path}: condition {i} of {len(conditions)}"
        if isinstance(names, str):
            try:
                rows.append(parse_labels(names, label_names))
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            continue
        check_names(names, label_names, where=where)
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise DataError(f"{where} says {twice[0]!r} twice; say each name once")
        rows.append(exactly(names, label_names))
    return np.stack(rows)


def check_names(names: Any, known: Sequence[str], *, where: str) -> None:
    """Whether these are one or more of the known names. Raises `DataError`, beginning `where`."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{where}: {json.dumps(names)} is not a list of names: ["name", …]')
    if not names:
        raise DataError(f"{where} has an empty list of names; name at least one")
    for name in names:
        if name not in known:
            raise DataError(f"{where}: there is no label {name!r}{nearest(name, known)}")
