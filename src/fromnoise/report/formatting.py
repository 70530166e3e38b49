"""Format numbers and settings for the page."""

import math
from collections.abc import Mapping
from typing import Any

from fromnoise.evaluation.records import HEADINGS, INCEPTION_HEADINGS
from fromnoise.report.records import Interval


def distance_name(extractor: str) -> str:
    """Return the name of the Fréchet distance, which is FID only with the features of Inception."""
    return (INCEPTION_HEADINGS if extractor == "inception" else HEADINGS)["fid"]


def number(value: float, digits: int = 4) -> str:
    """Return a short text: 1234.5678 → 1,235; 0.00012345 → 0.0001234; 3 → 3."""
    if value == round(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def interval(score: Interval) -> tuple[str, str, str]:
    """Return value, low and high, with 3 digits of the value and 2 of the interval's width.

    12.3456 in [12.1, 12.623] → 12.35, 12.10, 12.62. Unknown numbers are "".
    """
    if score.value is None:
        return "", "", ""
    if score.low is None or score.high is None:
        return number(score.value), "", ""
    precise = [(abs(score.value), 3), (score.high - score.low, 2)]
    decimals = [digits - 1 - math.floor(math.log10(v)) for v, digits in precise if v > 0]
    places = max([0, *decimals])
    value, low, high = (f"{v:,.{places}f}" for v in (score.value, score.low, score.high))
    return value, low, high


def setting(value: Any) -> str:
    """Return a value as the recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(setting, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts(metadata: Mapping[str, Any]) -> str:
    """Return a dict in one line: `name ddim, steps 50`. Values that are None are left out."""
    parts = []
    for key, value in metadata.items():
        if isinstance(value, Mapping):
            parts.append(facts(value))
        elif isinstance(value, float):
            parts.append(f"{key} {number(value)}")
        elif value is not None:
            parts.append(f"{key} {setting(value)}")
    return ", ".join(part for part in parts if part)
