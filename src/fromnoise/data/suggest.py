"""A recipe's `data:` lines from the sizes, channels and labels of the images."""

import json
import re
from collections.abc import Mapping

import numpy as np

from fromnoise.data.picture import Fit

_USUAL = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_MOST_PADDING = 4  # pixels


def recipe_lines(
    *,
    source: str,
    path: str | None,
    sizes: Mapping[tuple[int, int], int],
    channels: int,
    dark: bool,
    labels: bool,
) -> str:
    """YAML for `sizes`, (H, W) -> images; `dark` says that most borders are nearer to black.

    labels: whether there are any, for then they are trained on too.
    """
    if not sizes:
        return ""
    (height, width), fit = suggest_size(sizes)
    lines = ["data:", f"  source: {source}"]
    if path is not None:
        lines.append(f"  path: {_yaml_text(path)}")
    lines.append(f"  size: {height}" if height == width else f"  size: [{height}, {width}]")
    lines += [f"  channels: {channels}", f"  fit: {fit}"]
    if fit == "pad":
        lines.append(f"  background: {[0, 0, 0] if dark else [255, 255, 255]}")
    if labels:
        lines.append("  labels: true")
    return "\n".join(lines)


def suggest_size(sizes: Mapping[tuple[int, int], int]) -> tuple[tuple[int, int], Fit]:
    """(H, W), both divisible by 8, and how the images come to it without being enlarged.

    One size that all share is kept, or padded where 8 is at most 4 pixels away. Otherwise it is
    the largest usual square within the median of the shorter sides.
    """
    if len(sizes) == 1:
        (height, width) = next(iter(sizes))
        padded = -(-height // 8) * 8, -(-width // 8) * 8
        added = max(padded[0] - height, padded[1] - width)
        if max(height, width) <= _USUAL[-1] and added <= _MOST_PADDING:
            return padded, "pad" if added else "crop"
    shorter = np.repeat([min(size) for size in sizes], list(sizes.values()))
    median = float(np.median(shorter))
    side = max((usual for usual in _USUAL if usual <= median), default=_USUAL[0])
    return (side, side), "crop"


def _yaml_text(text: str) -> str:
    """The text as it is where YAML reads it as itself, else quoted (JSON is YAML)."""
    return text if re.fullmatch(r"/[\w./+-]*", text) else json.dumps(text, ensure_ascii=False)
