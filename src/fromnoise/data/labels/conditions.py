"""Read the conditions to sample for from a JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fromnoise.data.errors import DataError
from fromnoise.data.labels.names import exact_labels, parse_labels
from fromnoise.data.text import read_json


def read_conditions(path: str | Path, label_names: Sequence[str]) -> np.ndarray:
    """Read a JSON list of conditions, as in i-CLEVR's test.json: int8 (N, K).

    A condition is a list of names, which are present (+1) while all others are absent (−1), or a
    text such as `red cube, -blue sphere`, which leaves the others unknown (0).

    label_names: the K labels of the model. Raises `DataError` if the file is not such a list, if
    the file or a condition is empty, and for an unknown or repeated name.
    """
    path = Path(path).expanduser().absolute()
    conditions = read_json(path, where=str(path))
    if not isinstance(conditions, list) or not all(isinstance(c, list | str) for c in conditions):
        raise DataError(
            f"{path} is not a list of conditions. "
            'Write [["name", "name"], "name, -name", …], each a list or a text.'
        )
    if not conditions:
        raise DataError(f"{path} has no conditions. Add at least one to the list.")
    rows = []
    for i, condition in enumerate(conditions, start=1):
        where = f"{path}: condition {i} of {len(conditions)}"
        if not condition or not all(isinstance(name, str) for name in condition):
            text = json.dumps(condition)
            raise DataError(f'{where}: {text} is invalid. Write ["name", …] or "name, -name".')
        parse = parse_labels if isinstance(condition, str) else exact_labels
        try:
            rows.append(parse(condition, label_names))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return np.stack(rows)
