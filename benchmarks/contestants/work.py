"""The workload of a contestant, and its peak memory."""

import ctypes
import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """A workload, each round of which samples, loads or trains on `images` images."""

    how: str  # a description, such as precision and layout
    images: int
    round: Callable[[], object]
    device: str = "cpu"
    chosen: Mapping[str, Any] | None = None  # its settings, for contestants with `like`


def forget_peak(device: str) -> None:
    """Reset the peak memory of this process or device."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # only on Linux, and it may not be writable
        Path("/proc/self/clear_refs").write_text("5")
