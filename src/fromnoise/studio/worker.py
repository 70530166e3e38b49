"""The worker process of the studio, which runs one task at a time.

It reads calls from standard input and writes messages to standard output, as lines of JSON. A task
may send messages; the last one is its result, its error, or that it was stopped. The process ends
with the server.
"""

import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import IO, Any

from fromnoise.error_lines import error_line
from fromnoise.progress import printable

TASKS = {  # the module, imported at a call: `reading` and `checking` do not need torch
    "warm": "making",
    "make": "making",
    "describe": "reading",
    "preview": "reading",
    "check": "checking",
    "crops": "checking",
    "accept": "checking",
    "take": "checking",
    "doctor": "diagnosis",
    "edit": "editing",
    "report": "looking",
    "nearest": "looking",
}
OFTEN = 0.1  # seconds between two messages about progress


class Stopped(Exception):
    """Raised in a task that was stopped."""


class Call:
    """One call of a task, with its messages to the server and the request to stop."""

    def __init__(self, number: int, out: IO[bytes]) -> None:
        self.number, self._out = number, out
        self._stopped, self._sent = threading.Event(), 0.0

    def say(self, **message: Any) -> None:
        """Send a message to the server."""
        self._out.write(json.dumps({"number": self.number, **message}).encode() + b"\n")
        self._out.flush()

    def progress(self, done: int, total: int) -> None:
        """Send the progress, at most every `OFTEN` seconds. Raises Stopped."""
        self.check()
        if time.monotonic() - self._sent > OFTEN or done == total:
            self._sent = time.monotonic()
            self.say(done=done, total=total)

    def check(self) -> None:
        """Raise Stopped if `stop` was called."""
        if self._stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """Make `check` raise Stopped."""
        self._stopped.set()


class Notes(logging.Handler):
    """Send the warnings of the package as notes on the task."""

    def __init__(self, call: Call) -> None:
        super().__init__(logging.WARNING)
        self.call = call

    def emit(self, record: logging.LogRecord) -> None:
        """Send one warning."""
        self.call.say(note=printable(record.getMessage()))


def run(call: Call, task: str, arguments: dict[str, Any]) -> None:
    """Run a task, and send its result or error."""
    notes, logger = Notes(call), logging.getLogger("fromnoise")
    logger.addHandler(notes)
    try:
        module = import_module(f"fromnoise.studio.{TASKS[task]}")
        result = getattr(module, task)(arguments, call)
    except Stopped:
        call.say(stopped=True)
    except Exception as error:
        line = error_line(error)
        if line is None:
            line = f"{type(error).__name__}: {error}. See the traceback in the terminal."
            call.say(error=printable(line), traceback=traceback.format_exc())
        else:
            call.say(error=printable(line))
    else:
        call.say(result=result)
    finally:
        logger.removeHandler(notes)


def main() -> None:
    """Run the tasks from standard input, in order, until it closes."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to standard error
    calls: queue.SimpleQueue[tuple[Call, str, dict[str, Any]]] = queue.SimpleQueue()
    latest: dict[int, Call] = {}

    def read() -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "stop" in message:
                if message["stop"] in latest:
                    latest[message["stop"]].stop()
                continue
            call = Call(message["number"], out)
            latest.clear()
            latest[call.number] = call
            calls.put((call, message["task"], message["arguments"]))
        os._exit(0)  # safe, because files are written atomically

    threading.Thread(target=read, daemon=True).start()
    while True:
        run(*calls.get())


if __name__ == "__main__":
    main()
