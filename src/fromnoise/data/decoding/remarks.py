"""Remarks on image files: their unused parts, and the warnings while they are read.

Python's filters and its `showwarning` belong to all threads. So the first of the threads that read
at one time replaces them, the last one puts them back, and each warning goes to its own thread.
Pillow's log and the messages of libtiff count as warnings.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fromnoise.data.decoding.libtiff import receive_messages
from fromnoise.data.errors import abbreviate

FRAMES = "frames after the first are not used"
_OF_DECODING = r"(PIL|pillow_heif|fromnoise\.data\.decoding)\b"
_lock = threading.Lock()
_thread = threading.local()  # .texts: those of the file that this thread reads, or None
_readers = 0
_earlier: Any = None  # the filters, while there are readers
_pillow = logging.getLogger("PIL")


@contextmanager
def collect_warnings() -> Iterator[dict[str, None]]:
    """Yield the texts of the warnings in this block, each once, and print none of them.

    No filter, such as `python -W error`, makes an exception of them.
    """
    outer, texts = getattr(_thread, "texts", None), {}
    _thread.texts = texts
    _enter()
    try:
        yield texts
    finally:
        _leave()
        _thread.texts = outer


def _add(message: object) -> bool:
    """Add a message to those of this thread; return False if it does not read a file."""
    texts = getattr(_thread, "texts", None)
    if texts is not None:
        texts[" ".join(str(message).split()).rstrip(".")] = None
    return texts is not None


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if not _add(record.getMessage()):
            logging.getLogger().handle(record)


_log = _Log(logging.WARNING)
receive_messages(lambda message: _add(message) or print(message, file=sys.stderr))


def _enter() -> None:
    global _readers, _earlier
    with _lock:
        _readers += 1
        if _readers > 1:
            return
        _earlier = warnings.catch_warnings()
        _earlier.__enter__()
        warnings.filterwarnings("always", module=_OF_DECODING)
        shown = warnings.showwarning

        def show(message: Warning | str, *place: Any, **options: Any) -> None:
            if not _add(message):
                shown(message, *place, **options)

        warnings.showwarning = show
        _pillow.addHandler(_log)
        _pillow.propagate = False


def _leave() -> None:
    global _readers
    with _lock:
        _readers -= 1
        if not _readers:
            _pillow.removeHandler(_log)
            _pillow.propagate = True
            _earlier.__exit__(None, None, None)


def notes_on(remarks: Mapping[str, Collection[str]]) -> list[str]:
    """Return a line on the files with more frames, and one on those with warnings."""
    more, warned = frames_and_warnings(remarks)
    lists = {FRAMES: more, "read with warnings": warned}
    return [
        f"{what} ({len(names):,}): {abbreviate(names)}" for what, names in lists.items() if names
    ]


def frames_and_warnings(remarks: Mapping[str, Collection[str]]) -> tuple[list[str], list[str]]:
    """Return the names of files with more frames, and the warnings as `name: text; text`."""
    more = [name for name in sorted(remarks) if FRAMES in remarks[name]]
    texts = {name: [t for t in remarks[name] if t != FRAMES] for name in sorted(remarks)}
    return more, [f"{name}: {'; '.join(each)}" for name, each in texts.items() if each]
