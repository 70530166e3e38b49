"""What a contestant is asked to make."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Work(NamedTuple):
    """One round of something, that makes, reads or learns from `images` images."""

    how: str  # in which precision and layout, say
    images: int
    round: Callable[[], object]
    device: str = "cpu"
    chosen: Mapping[str, Any] | None = None  # what it left to a probe; others may do as it does
