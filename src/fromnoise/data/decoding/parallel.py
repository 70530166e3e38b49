"""Run a function over many images in threads, and keep their order."""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

_CHUNK = 8  # items per task: one by one, the overhead exceeds the decoding of a small image


def map_in_order(function: Callable[[int], T], count: int) -> Generator[T, None, None]:
    """Yield function(0), …, function(count - 1), computed in up to 8 threads.

    At most 2 chunks of results per thread are held in memory, for any `count`.
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
