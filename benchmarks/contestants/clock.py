"""Wall-clock time without the time in which this process was stopped.

Whoever stops and continues it (`turns.py`) names a file in the environment and writes there,
before each continuation, how often the process has been stopped and for how many seconds in all.
"""

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

VARIABLE = "BENCHMARK_STOPS"
STOPS = struct.Struct("=qd")  # times stopped, seconds stopped
OFTEN = 0.05  # seconds between two looks at the clock


class Clock:
    """It begins at 0 when it is made."""

    def __init__(self) -> None:
        self._file = None
        if name := os.environ.get(VARIABLE):
            with open(name, "rb") as file:
                self._file = mmap.mmap(file.fileno(), STOPS.size, access=mmap.ACCESS_READ)
        self._begun = 0.0
        self._begun = self.seconds()

    def stops(self) -> tuple[int, float]:
        """How often and for how many seconds this process has been stopped since it was born."""
        return (0, 0.0) if self._file is None else STOPS.unpack_from(self._file)

    def seconds(self) -> float:
        """Seconds in which this process was running."""
        while True:
            before = self.stops()
            now = time.monotonic()
            if before == self.stops():  # it was not stopped between the two readings
                return now - before[1] - self._begun


@contextmanager
def ending(clock: Clock, seconds: float, end: Callable[[], object]) -> Iterator[None]:
    """Inside the `with`, `end` is called as soon as the clock shows so many seconds.

    And then again and again: the first call may come before anyone listens.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(OFTEN):
            if clock.seconds() >= seconds:
                end()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
