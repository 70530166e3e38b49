"""Numbers and settings → the words of the page."""

import math
from collections.abc import Mapping
from typing import Any

from fromnoise.report.measured import Interval


def number(value: float, digits: int = 4) -> str:
    """1234.5678 → 1,235; 0.00012345 → 0.0001234; 3 → 3."""
    if value == round(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def interval(score: Interval) -> tuple[str, str, str]:
    """Value, low and high with as many decimals as show 3 digits of the one, 2 of their distance.

    12.3456 in [12.1, 12.623] → 12.35, 12.10, 12.62. What is not known is "".
    """
    if score.value is None:
        return "", "", ""
    if score.low is None or score.high is None:
        return number(score.value), "", ""
    wanted = [(abs(score.value), 3), (score.high - score.low, 2)]
    decimals = [digits - 1 - math.floor(math.log10(v)) for v, digits in wanted if v > 0]
    shown = max([0, *decimals])
    value, low, high = (f"{v:,.{shown}f}" for v in (score.value, score.low, score.high))
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
