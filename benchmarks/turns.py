"""Run long programs in turn: each runs for a slice of time while the others are stopped.

So changes in the speed of the machine affect all programs, and they do not compete for its cores.
Each program is a process group, which is stopped and continued as a whole. `contestants/clock.py`
tells it how long it was stopped.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contestants.clock import STOPS, VARIABLE
from race import HERE, Contestant


class Turns:
    """A command that runs only in its turns, with its output in a log file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = command, log
        self.process: subprocess.Popen[bytes] | None = None
        self._stops, self._stopped_for, self._stopped_at = 0, 0.0, 0.0
        told = log.with_suffix(".stops")
        told.write_bytes(STOPS.pack(0, 0.0))
        self._environment = {**os.environ, VARIABLE: str(told)}
        with told.open("r+b") as file:
            self._told = mmap.mmap(file.fileno(), STOPS.size)

    def turn(self, seconds: float) -> bool:
        """Run the command for at most `seconds`; return whether it has ended.

        Raises SystemExit with the last lines of the log if it failed.
        """
        process = self._go()
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._stop(process)
            return False
        if code:
            last = self.log.read_text(errors="replace").splitlines()[-3:]
            raise SystemExit(f"{self.log}: exit status {code}: {' | '.join(last)}")
        return True

    def _go(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            with self.log.open("wb") as log:
                # a process group, but no session: if this program is killed, the kernel ends the
                # stopped processes
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    process_group=0,
                )
        else:
            self._stops += 1
            self._stopped_for += time.monotonic() - self._stopped_at
            STOPS.pack_into(self._told, 0, self._stops, self._stopped_for)
            os.killpg(self.process.pid, signal.SIGCONT)
        return self.process

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # wait for the stop
        self._stopped_at = time.monotonic()

    def end(self) -> None:
        """Kill the command if it has not ended."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def take_turns(all_of_them: Sequence[Turns], *, slice_seconds: float) -> None:
    """Run commands to their ends, `slice_seconds` at a time. If this program ends, end them."""
    waiting = deque(all_of_them)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting:
            one = waiting.popleft()
            if not one.turn(slice_seconds):
                waiting.append(one)
    finally:
        for one in all_of_them:
            one.end()
        signal.signal(signal.SIGTERM, before)


class Stage(NamedTuple):
    """A part of the work of a contestant, with a name that may differ between contestants."""

    name: str
    contestant: Contestant

    def answer(self, out: Path) -> Path:
        """Return the file of its result; its working folder beside it has the same name."""
        return out / self.contestant.name / f"{self.name}.json"


def check_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan into `out`. Raises SystemExit if `out` has results of another plan."""
    file = out / "plan.json"
    if file.exists() and (before := json.loads(file.read_text())) != plan:
        other = ", ".join(
            f"{key} = {before.get(key)}" for key in plan if before.get(key) != plan[key]
        )
        raise SystemExit(f"{out} has results with {other}. Give the same, or another --out.")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plan, indent=1) + "\n")


def finish(stages: Sequence[Stage], out: Path, *, slice_seconds: float) -> dict[str, Any]:
    """Run stages in turn; return the result of each by the name of its contestant.

    Stages with a result in `out` are not repeated.
    """
    turns = []
    for stage in stages:
        file, contestant = stage.answer(out).absolute(), stage.contestant
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {**contestant.options, "folder": str(file.with_suffix(""))}
        command = [contestant.python, HERE / "stage.py", contestant.work, json.dumps(options), file]
        turns.append(Turns([str(word) for word in command], file.with_suffix(".log")))
    if turns:
        print(f"running: {', '.join(str(one.log) for one in turns)}", flush=True)
    take_turns(turns, slice_seconds=slice_seconds)
    return {stage.contestant.name: json.loads(stage.answer(out).read_text()) for stage in stages}
