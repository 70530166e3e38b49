"""Start, stop and follow trainings: processes of `fromnoise train` that outlive the server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fromnoise.checkpoints import LOCK, OWNER, atomic_file, list_checkpoints, read_state
from fromnoise.config.errors import ConfigError
from fromnoise.studio.events import Events
from fromnoise.studio.places import safe_part
from fromnoise.studio.runs import (
    RECIPE,
    Runs,
    has_model,
    id_of,
    is_run,
    last_row,
    preview_steps,
    read_recipe,
)
from fromnoise.studio.training_log import LogReader

STARTED = ".studio"  # in the folder of the runs: the commands and their output
EVERY = 1.0  # seconds between two reads of the logs


class State(NamedTuple):
    """The state of a training that pages show."""

    id: str
    name: str
    state: str  # starting, running, stopped, finished, failed
    step: int = 0
    steps: int = 0  # 0 while they are unknown
    rate: float | None = None  # images per second
    left: float | None = None  # seconds
    memory: int | None = None  # bytes
    problem: str = ""
    can_resume: bool = False


class Trainings:
    """The trainings of a folder: start, stop, resume and follow them."""

    def __init__(self, folder: Path, runs: Runs, events: Events) -> None:
        self.folder, self.runs, self.events = folder, runs, events
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._followed: dict[Path, tuple[LogReader, list[int], State]] = {}
        self._news: list[tuple[str, dict[str, Any]]] = []

    def start(self, name: str, arguments: Sequence[str]) -> str:
        """Start `fromnoise train` into a new folder, and return its id. Raises ConfigError."""
        path = self.path_of(name)
        if is_run(path) or self.process_of(path) is not None:
            raise ConfigError(f"a run {name} exists already. Give another name.")
        self._launch(path, arguments)
        return id_of(path)

    def resume(self, path: Path, settings: Sequence[str]) -> None:
        """Start `fromnoise resume`. Raises ConfigError if another process trains the run."""
        if (process := self.process_of(path)) is not None:
            raise ConfigError(
                f"{path} is in use by process {process}. Wait for it, or give another folder."
            )
        self._launch(path, ["resume", str(path), *settings])

    def stop(self, path: Path) -> None:
        """Signal a training to save a checkpoint and stop. Raises ConfigError."""
        process = self.process_of(path)
        if process is None:
            raise ConfigError(f"{path.name} is not being trained. Reload the page.")
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)

    def path_of(self, name: str) -> Path:
        """Return the folder of a run with this name."""
        return self.folder / safe_part(name)

    def find(self, id: str) -> Path:
        """Return the folder of a run or of a starting training. Raises KeyError."""
        for path in (*self._children, *self._started()):
            if id_of(path) == id:
                return path
        return self.runs.find(id)

    def all(self) -> list[Path]:
        """Return the folders of trainings that have no run yet, then of runs, newest first."""
        runs = [facts.path for facts in self.runs.list() if (facts.path / RECIPE).is_file()]
        return [*(path for path in self._started() if path not in runs), *runs]

    def state(self, path: Path) -> State:
        """Return the state of a training."""
        name, id, process = path.name, id_of(path), self.process_of(path)
        if not (path / RECIPE).is_file():
            if process is not None:
                return State(id, name, "starting", memory=memory_of(process))
            return State(id, name, "failed", problem=self._problem(path))
        row = last_row(path)
        training = read_recipe(path).get("training") or {}
        steps = training.get("steps") or 0
        steps = steps if type(steps) is int else 0
        step, rate = row.get("step", 0), row.get("images_per_second")
        left = None
        if rate and steps:
            left = max(0.0, (steps - step) * row.get("batch_size", 0) / rate)
        if process is not None:
            return State(id, name, "running", step, steps, rate, left, memory_of(process))
        ended = (bool(steps) and step >= steps) or is_ended(path)
        problem = "" if ended else self._problem(path)
        state = "finished" if ended else "failed" if problem else "stopped"
        return State(id, name, state, step, steps, rate, None, None, problem, not ended)

    def process_of(self, path: Path) -> int | None:
        """Return the process that trains a run, or None."""
        child = self._children.get(path)
        if child is not None and child.poll() is None:
            return child.pid
        self._children.pop(path, None)
        try:
            number = int((path / OWNER).read_text())
            os.kill(number, 0)
        except PermissionError:  # of another user
            return number
        except (OSError, ValueError):
            return self._starting(path)
        return number if is_locked(path / LOCK) else self._starting(path)

    async def follow(self) -> None:
        """Publish changes of the trainings, forever."""
        while True:
            with suppress(OSError):  # a folder may be deleted meanwhile
                await asyncio.to_thread(self._look)
            for event, data in self._news:
                self.events.publish(event, **data)
            self._news.clear()
            await asyncio.sleep(EVERY)

    def _look(self) -> None:
        """Collect the changes of running trainings, and of those that just ended."""
        for path in {*self._children, *self._started(), *self.runs.paths(), *self._followed}:
            trained = self.process_of(path) is not None
            if not trained and path not in self._followed:
                continue
            if path not in self._followed:
                reader = LogReader(path)
                reader.read()
                self._followed[path] = reader, preview_steps(path), self.state(path)
                self._news.append(("training", self._followed[path][2]._asdict()))
                continue
            reader, previews, before = self._followed[path]
            if rows := reader.read():
                self._news.append(("rows", {"run": id_of(path), "rows": rows}))
            for step in preview_steps(path):
                if step not in previews:
                    previews.append(step)
                    self._news.append(("preview", {"run": id_of(path), "step": step}))
            state = self.state(path)
            if state != before:
                self._news.append(("training", state._asdict()))
            self._followed[path] = reader, previews, state
            if not trained:
                del self._followed[path]

    def _launch(self, path: Path, arguments: Sequence[str]) -> None:
        kept = self.folder / STARTED
        kept.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fromnoise", *arguments]
        with (kept / f"{path.name}.log").open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it outlives the terminal
            )
        self._children[path] = child
        with atomic_file(kept / f"{path.name}.json") as writing:
            content = {"path": str(path), "process": child.pid, "command": list(arguments)}
            writing.write_text(json.dumps(content), encoding="utf-8")

    def _record(self, path: Path) -> dict[str, Any]:
        try:
            text = (self.folder / STARTED / f"{path.name}.json").read_text(encoding="utf-8")
            content = json.loads(text)
        except (OSError, ValueError):
            return {}
        return content if content.get("path") == str(path) else {}

    def _started(self) -> list[Path]:
        """Return the folders of trainings without a run, which are preparing or have failed."""
        files = (self.folder / STARTED).glob("*.json")
        newest = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
        paths = [self.folder / file.stem for file in newest]
        return [path for path in paths if not (path / RECIPE).is_file() and self._record(path)]

    def _starting(self, path: Path) -> int | None:
        """Return the process of a training that an earlier server started, without a run yet."""
        process = self._record(path).get("process")
        return process if type(process) is int and is_fromnoise(process) else None

    def _problem(self, path: Path) -> str:
        """Return the error of the last command for a run from its output, or an empty string."""
        if not self._record(path):
            return ""
        try:
            text = (self.folder / STARTED / f"{path.name}.log").read_text(errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        if lines:
            return lines[-1].removeprefix("error: ")
        failed = not has_model(path) or "Traceback" in text
        where = self.folder / STARTED / f"{path.name}.log"
        return f"the process ended without a message. Its output is in {where}." if failed else ""


def is_ended(path: Path) -> bool:
    """Return whether `training.patience` ended a training."""
    saved = list_checkpoints(path / "checkpoints")
    try:
        return bool(read_state(saved[-1]).get("ended")) if saved else False
    except (OSError, ValueError, KeyError):
        return False


def is_locked(lock: Path) -> bool:
    """Return whether a process holds the lock of a run."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a file system without locks
        return lock.exists()
    return False


def is_fromnoise(process: int) -> bool:
    """Return whether a process exists and, if /proc has its command line, is fromnoise."""
    try:
        os.kill(process, 0)
        command = Path(f"/proc/{process}/cmdline")
        return not command.exists() or b"fromnoise" in command.read_bytes()
    except OSError:
        return False


def memory_of(process: int) -> int | None:
    """Return the resident memory of a process in bytes, or None on a system without /proc."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
