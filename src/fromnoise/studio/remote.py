"""Start a worker process from the server, call its tasks, and stop it."""

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

OnMessage = Callable[[dict[str, Any]], None]
LONGEST = 32 * 2**20  # bytes of a message
PATIENCE = 1.5  # seconds before a worker that does not stop is killed


class TaskFailed(Exception):
    """A task that failed. The message is one line: `<problem>. <fix>.`"""


class TaskStopped(Exception):
    """A task that was stopped."""


def ignore(message: dict[str, Any]) -> None:
    """Ignore a message."""


class Worker:
    """A process that runs one task at a time. A call starts it if it is not running."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: deque[str] = deque(maxlen=20)  # its last lines
        self._busy, self._number, self._stopping = asyncio.Lock(), 0, False
        self._drain: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Return whether it runs no task."""
        return not self._busy.locked()

    async def call(
        self, task: str, arguments: dict[str, Any], on_message: OnMessage = ignore
    ) -> Any:
        """Run a task and return its result. on_message: called with each message of the task.

        Raises TaskFailed, and TaskStopped after `stop`.
        """
        async with self._busy:
            self._stopping = False
            process = await self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            self._number += 1
            call = {"number": self._number, "task": task, "arguments": arguments}
            with suppress(ConnectionError):  # the end of the process is noticed below
                process.stdin.write(json.dumps(call).encode() + b"\n")
                await process.stdin.drain()
            while line := await process.stdout.readline():
                message = json.loads(line)
                if message.pop("number") != self._number:  # of a cancelled call
                    continue
                if "result" in message:
                    return message["result"]
                if "stopped" in message:
                    raise TaskStopped
                if "error" in message:
                    print(message.get("traceback", ""), end="", file=sys.stderr)
                    raise TaskFailed(message["error"])
                on_message(message)
            await process.wait()
            if self._stopping:
                raise TaskStopped
            print(*self._stderr, sep="\n", file=sys.stderr)
            code = process.returncode
            why = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            raise TaskFailed(
                f"the worker process ended ({why}), perhaps for lack of memory. Try fewer or "
                "smaller images."
            )

    async def stop(self) -> None:
        """Stop the task at its next step, or else by killing the process."""
        process, number = self._process, self._number
        if self.idle or process is None or process.stdin is None:
            return
        self._stopping = True
        with suppress(ConnectionError):
            process.stdin.write(json.dumps({"stop": number}).encode() + b"\n")
        await asyncio.sleep(PATIENCE)
        if self._busy.locked() and self._number == number:
            self.kill()

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fromnoise.studio.worker"),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                limit=LONGEST,
                start_new_session=True,  # Ctrl-C in the terminal is for the server
                env={**os.environ, "TTY_COMPATIBLE": "0"},
            )
            self._drain = asyncio.create_task(self._listen(self._process))
        return self._process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        with suppress(ValueError):  # a line that is too long
            async for line in process.stderr:
                self._stderr.append(line.decode(errors="replace").rstrip())
