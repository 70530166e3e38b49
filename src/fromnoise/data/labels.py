"""Labels in words → numbers: +1 present, −1 absent, 0 not said."""

import difflib
from collections.abc import Sequence

import numpy as np

from fromnoise.data.errors import DataError


def parse_labels(text: str, names: Sequence[str]) -> np.ndarray:
    """`red cube, -blue sphere` → +1 for the first, −1 for the second, 0 elsewhere: int8 (K,).

    names: those of the model, in its order. Raises DataError for an unknown name, with the nearest,
    for one that is said twice, and for none at all.
    """
    condition = np.zeros(len(names), dtype=np.int8)
    words = [word.strip() for word in text.split(",")]
    for word in words:
        name = word if word in names else word.removeprefix("-").strip()
        if name not in names:
            raise DataError(f"there is no label {name!r}{nearest(name, names)}")
        k = list(names).index(name)
        if condition[k]:
            raise DataError(f"the label {name!r} is said twice in {text!r}")
        condition[k] = 1 if word == name else -1
    return condition


def exactly(present: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """These labels and none of the others: +1 for them, −1 elsewhere; int8 (K,)."""
    for name in present:
        if name not in names:
            raise DataError(f"there is no label {name!r}{nearest(name, names)}")
    return np.where(np.isin(names, present), 1, -1).astype(np.int8)


def in_turn(names: Sequence[str], count: int) -> np.ndarray:
    """Each label alone, one after the other and then from the first again: int8 (count, K)."""
    return np.stack([exactly([names[i % len(names)]], names) for i in range(count)])


def in_words(condition: np.ndarray, names: Sequence[str], *, negated: bool = True) -> str:
    """The names of a condition: `red cube, -blue sphere`.

    The negated ones are left out where `negated` is False, and where all that is not +1 is −1, as
    for one class of ten.
    """
    present = [name for name, value in zip(names, condition, strict=True) if value > 0]
    absent = [f"-{name}" for name, value in zip(names, condition, strict=True) if value < 0]
    complete = len(present) + len(absent) == len(names)
    return ", ".join(present + (absent if negated and not (present and complete) else []))


def nearest(name: str, names: Sequence[str]) -> str:
    """What to add to an error: the names that are like this one, or a few of them."""
    holding = [known for known in names if name and name.lower() in known.lower()]
    close = [*holding, *(n for n in difflib.get_close_matches(name, names) if n not in holding)]
    if close:
        return f"; did you mean {' or '.join(close[:3])}?"
    shown = ", ".join(names[:24])
    return f"; the labels are {shown}{', …' if len(names) > 24 else ''}" if names else ""
