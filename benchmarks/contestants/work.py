"""What a contestant is asked to make, and the memory that it holds meanwhile."""

import ctypes
import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """One round of something, that makes, reads or learns from `images` images."""

    how: str  # in which precision and layout, say
    images: int
    round: Callable[[], object]
    device: str = "cpu"
    chosen: Mapping[str, Any] | None = None  # what it has chosen; others may do as it does


def forget_peak(device: str) -> None:
    """What this process has held so far does not count."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not held
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux has this file, if not everywhere for everyone
        Path("/proc/self/clear_refs").write_text("5")
