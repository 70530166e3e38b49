"""Decoding in threads, in order, without running ahead of the one who writes."""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

_CHUNK = 8  # items a task; one by one, the hand-over costs more than decoding a small image


def in_order(function: Callable[[int], T], count: int) -> Generator[T, None, None]:
    """Yields function(0), …, function(count - 1), computed in at most 8 threads.

    At most 2 chunks of results a thread wait to be taken, whatever the count.
    """
    workers = min(8, os.cpu_count() or 1)

    def chunk(start: int) -> list[T]:
        return [function(i) for i in range(start, min(start + _CHUNK, count))]

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        tasks = (pool.submit(chunk, start) for start in range(0, count, _CHUNK))
        waiting: deque[Future[list[T]]] = deque(islice(tasks, 2 * workers))
        try:
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(islice(tasks, 1))
        finally:
            for task in waiting:
                task.cancel()
