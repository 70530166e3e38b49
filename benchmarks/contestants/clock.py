"""Measure wall-clock time without the time in which this process was stopped.

The program that stops and continues it (`turns.py`) names a file in the environment. Before each
continuation it writes there how often the process was stopped, and for how many seconds in total.
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
OFTEN = 0.05  # seconds between two readings of the clock


class Clock:
    """A clock that starts at 0 when it is created."""

    def __init__(self) -> None:
        self._file = None
        if name := os.environ.get(VARIABLE):
            with open(name, "rb") as file:
                self._file = mmap.mmap(file.fileno(), STOPS.size, access=mmap.ACCESS_READ)
        self._begun = 0.0
        self._begun = self.seconds()

    def stops(self) -> tuple[int, float]:
        """Return how often, and for how many seconds, this process was stopped since its start."""
        return (0, 0.0) if self._file is None else STOPS.unpack_from(self._file)

    def seconds(self) -> float:
        """Return the seconds in which this process was running."""
        while True:
            before = self.stops()
            now = time.monotonic()
            if before == self.stops():  # it was not stopped between the two readings
                return now - before[1] - self._begun


@contextmanager
def ending(clock: Clock, seconds: float, end: Callable[[], object]) -> Iterator[None]:
    """Call `end` repeatedly in this context, from the given seconds of the clock on.

    The first call alone might come too early to have an effect.
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
