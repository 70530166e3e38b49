"""Send events to the pages: numbered, in one order, in one stream for each page."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

KEPT = 16 * 2**20  # bytes of events, for streams that are slow or reconnect
QUIET = 15.0  # seconds without an event, after which a stream gets a comment


class Events:
    """The newest events. A stream receives all after its last one, in order.

    A stream that is more than `KEPT` bytes behind, or that had events of another server, receives
    `reload`, upon which its page loads again.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._name = secrets.token_hex(4)  # of this server
        self._limit, self._size, self._last = kept, 0, 0
        self._kept: dict[int, bytes] = {}
        self._published, self._closed = asyncio.Event(), False

    @property
    def last(self) -> str:
        """Return the id of the newest event."""
        return f"{self._name}-{self._last}"

    def publish(self, event: str, **data: Any) -> None:
        """Send an event to every stream."""
        self._last += 1
        text = f"id: {self.last}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()
        self._kept[self._last] = text
        self._size += len(text)
        while self._size > self._limit and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._size -= len(self._kept.pop(oldest))
        self._wake()

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._published.set()
        self._published = asyncio.Event()

    async def stream(self, after: str) -> AsyncIterator[bytes]:
        """Yield the events after the one with this id, as server-sent events, until `close`."""
        name, _, number = after.rpartition("-")
        known = int(number) if name == self._name and number.isdecimal() else -1
        oldest = next(iter(self._kept), self._last + 1)
        if not oldest - 1 <= known <= self._last:
            yield b"event: reload\ndata: {}\n\n"
            known = self._last
        while not self._closed:
            published = self._published
            while known < self._last:
                if known + 1 not in self._kept:
                    yield b"event: reload\ndata: {}\n\n"
                    return
                known += 1
                yield self._kept[known]
            if published.is_set():  # while an event was sent
                continue
            try:
                await asyncio.wait_for(published.wait(), QUIET)
            except TimeoutError:
                yield b": quiet\n\n"
