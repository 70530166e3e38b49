"""Labels in words → numbers: +1 present, −1 absent, 0 not said."""

import difflib
import math
import re
from collections.abc import Sequence

import numpy as np

from fromnoise.data.errors import DataError

OPEN = "…"  # the rest is not said


def parse_labels(text: str, names: Sequence[str]) -> np.ndarray:
    """`red cube, -blue sphere` → +1 for the first, −1 for the second, 0 elsewhere: int8 (K,).

    names: those of the model, in its order. A "…" at the end, as of `in_words`, says nothing.
    Raises DataError for an unknown name, with the nearest, for one that is said twice, and for none
    at all.
    """
    condition = np.zeros(len(names), dtype=np.int8)
    for word in _words(text.removesuffix(f", {OPEN}")):
        negated = word.startswith("-") and word not in names
        k = index_of(word.removeprefix("-").strip() if negated else word, names)
        if condition[k]:
            raise DataError(f"the label {names[k]!r} is said twice in {text!r}")
        condition[k] = -1 if negated else 1
    return condition


def parse_weights(text: str, names: Sequence[str]) -> dict[str, float]:
    """`red cube=3, blue sphere=-1` → {name: weight}, the names as `names` has them.

    Raises DataError for an unknown name, for one that is said twice, and for a weight that is no
    number.
    """
    weights: dict[str, float] = {}
    for word in _words(text):
        said, equals, number = word.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not equals or not math.isfinite(weight):
            raise DataError(f"{word!r} has no weight; write label=number, as in 'red cube=3'")
        name = names[index_of(said.strip(), names)]
        if name in weights:
            raise DataError(f"the label {name!r} is said twice in {text!r}")
        weights[name] = weight
    return weights


def index_of(name: str, names: Sequence[str]) -> int:
    """Which label a name means; `ankle-boot` is `Ankle boot` where nothing else is so near.

    That is: the same name, or else the only one with the same letters and digits. Raises DataError,
    with the nearest names, where there is none.
    """
    if name in names:
        return list(names).index(name)
    alike = [k for k, known in enumerate(names) if _bare(known) == _bare(name)]
    if len(alike) == 1:
        return alike[0]
    raise DataError(f"there is no label {name!r}{nearest(name, names)}")


def exactly(present: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """These labels and none of the others: +1 for them, −1 elsewhere; int8 (K,).

    Raises DataError for an unknown name, and for one that is said twice.
    """
    condition = np.full(len(names), -1, dtype=np.int8)
    for name in present:
        k = index_of(name, names)
        if condition[k] > 0:
            raise DataError(f"the label {names[k]!r} is said twice; say each once")
        condition[k] = 1
    return condition


def in_turn(names: Sequence[str], count: int) -> np.ndarray:
    """Each label alone, one after the other and then from the first again: int8 (count, K)."""
    return np.stack([exactly([names[i % len(names)]], names) for i in range(count)])


def in_words(condition: np.ndarray, names: Sequence[str]) -> str:
    """The names of a condition: `red cube, -blue sphere, …`, where the dots leave the rest open.

    Where all that is not +1 is −1, as for one class of ten, only the names that are +1: `red cube`.
    """
    present = [name for name, value in zip(names, condition, strict=True) if value > 0]
    absent = [f"-{name}" for name, value in zip(names, condition, strict=True) if value < 0]
    if len(present) + len(absent) == len(names):
        return ", ".join(present or absent)
    return ", ".join([*present, *absent, OPEN]) if present or absent else ""


def nearest(name: str, names: Sequence[str]) -> str:
    """What to add to an error: the names that are like this one, or a few of them."""
    holding = [known for known in names if name and name.lower() in known.lower()]
    close = [*holding, *(n for n in difflib.get_close_matches(name, names) if n not in holding)]
    if close:
        return f"; did you mean {' or '.join(close[:3])}?"
    shown = ", ".join(names[:24])
    return f"; the labels are {shown}{', …' if len(names) > 24 else ''}" if names else ""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _bare(name: str) -> str:
    """Letters and digits alone, and a minus in front, which would say the opposite."""
    return "-" * name.startswith("-") + re.sub(r"[\W_]+", "", name).casefold()


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Class numbers (N,) as labels int8 (N, count): +1 for the class, -1 for the others.

    A class of -1 is one that was not said: zeros throughout.
    """
    labels = np.full((len(classes), count), -1, dtype=np.int8)
    said = classes >= 0
    labels[~said] = 0
    labels[said, classes[said]] = 1
    return labels
