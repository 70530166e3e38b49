"""Numbers and settings → the words of the page."""

import math
from collections.abc import Mapping
from typing import Any

from fromnoise.evaluation.report.measured import Interval


def number(value: float, digits: int = 4) -> str:
    """1234.5678 → 1,235; 0.00012345 → 0.0001234; 3 → 3."""
    if value == round(value):
        return f"{value:,.0f}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def interval(score: Interval) -> tuple[str, str, str]:
    """Value, low and high with two digits of the interval's width; "" for what is not known.

    12.3456 in [12.1, 12.623] → 12.35, 12.10, 12.62. The value must be known.
    """
    assert score.value is not None
    if score.low is None or score.high is None:
        return number(score.value), "", ""
    width = score.high - score.low
    if width <= 0:
        return number(score.value), number(score.low), number(score.high)
    decimals = max(0, 1 - math.floor(math.log10(width)))
    value, low, high = (f"{v:,.{decimals}f}" for v in (score.value, score.low, score.high))
    return value, low, high


def setting(value: Any) -> str:
    """A value as the recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(setting, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts(said: Mapping[str, Any]) -> str:
    """A dict in one line, `name ddim, steps 50`; what is None is left out."""
    parts = []
    for key, value in said.items():
        if isinstance(value, Mapping):
            parts.append(facts(value))
        elif isinstance(value, float):
            parts.append(f"{key} {number(value)}")
        elif value is not None:
            parts.append(f"{key} {setting(value)}")
    return ", ".join(part for part in parts if part)
