"""Lists of conditions: what the images that are to be drawn shall show."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels.names import exactly, parse_labels
from fromnoise.data.text import read_json


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
    for i, asked in enumerate(conditions, start=1):
        where = f"{path}: condition {i} of {len(conditions)}"
        if not asked or not all(isinstance(name, str) for name in asked):
            raise DataError(
                f'{where}: {json.dumps(asked)} is no condition; write ["name", …] or "name, -name"'
            )
        try:
            rows.append((parse_labels if isinstance(asked, str) else exactly)(asked, label_names))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return np.stack(rows)
