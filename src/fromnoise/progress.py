"""Show a progress bar, format durations, and make texts of unknown origin printable."""

import logging
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar

console = Console(stderr=True)  # shared by bars and messages, or they overwrite each other
logger = logging.getLogger("fromnoise")
Progress = Callable[[int, int], None]  # (done, total)
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}  # control characters, surrogates, separators of lines


def no_progress(done: int, total: int) -> None:
    """Ignore the progress."""


def format_duration(seconds: float) -> str:
    """Return a short text: 3725 → `1h 02m`; 125 → `2m 05s`; 9 → `9s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours}h {m:02d}m"
    return f"{m}m {s:02d}s" if m else f"{s}s"


def printable(text: str) -> str:
    r"""Return a text as one line that UTF-8 can hold and a terminal shows unchanged.

    Control characters, line separators and surrogates become escapes: `\n`, `\x1b`. Python reads a
    byte of a file name that is not UTF-8 as a surrogate; it becomes `\xe9`.
    """
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED:
        return character
    is_byte = "\udc80" <= character <= "\udcff"
    return f"\\x{ord(character) & 0xFF:02x}" if is_byte else repr(character)[1:-1]


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Yield `update(done, total)`: a bar with ETA on a terminal, log lines elsewhere."""
    columns = (*Bar.get_default_columns(), MofNCompleteColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        tenths = 0

        def update(done: int, total: int) -> None:
            nonlocal tenths
            bar.update(task, completed=done, total=total)
            before, tenths = tenths, done * 10 // max(total, 1)
            if not console.is_terminal and total >= 100 and tenths > before:
                logger.info("%s: %d of %d", description, done, total)

        yield update
