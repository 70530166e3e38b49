"""A queue of jobs, which one worker runs in order, with progress. Each can be stopped."""

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fromnoise.studio.events import Events
from fromnoise.studio.remote import TaskFailed, TaskStopped, Worker

REMEMBERED = 50  # jobs that have ended
State = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass
class Job:
    """A task in the queue, or one that has ended."""

    id: str
    task: str
    title: str
    arguments: dict[str, Any]
    run: str = ""  # the id of its run, if it has one
    state: State = "waiting"
    done: int = 0
    total: int = 0
    started: float = 0.0
    seconds: float = 0.0
    error: str = ""
    notes: list[str] = field(default_factory=list)
    result: Any = None

    def shown(self) -> dict[str, Any]:
        """Return the fields that a page shows."""
        running = self.state == "running"
        seconds = time.monotonic() - self.started if running else self.seconds
        left = seconds * (self.total - self.done) / self.done if self.done and running else None
        keys = ("id", "task", "title", "run", "state", "done", "total", "error", "notes")
        return {key: getattr(self, key) for key in keys} | {"seconds": seconds, "left": left}


class Jobs:
    """Jobs in the order in which they were added, run by one worker."""

    def __init__(self, worker: Worker, events: Events) -> None:
        self.worker, self.events = worker, events
        self._jobs: dict[str, Job] = {}
        self._added, self._warm = asyncio.Event(), ""

    def warm(self, run: Path | None = None) -> None:
        """Let the worker load torch, and the model of a run, when the queue is empty."""
        self._warm = str(run or ".")
        self._added.set()

    def add(self, task: str, title: str, arguments: dict[str, Any], *, run: str = "") -> Job:
        """Add a job to the end of the queue."""
        job = Job(new_id(), task, title, arguments, run)
        self._jobs[job.id] = job
        self._publish(job)
        self._added.set()
        return job

    def find(self, id: str) -> Job:
        """Return a job. Raises KeyError."""
        return self._jobs[id]

    def shown(self) -> list[dict[str, Any]]:
        """Return the fields that a page shows, of each job, oldest first."""
        return [job.shown() for job in self._jobs.values()]

    async def stop(self, job: Job) -> None:
        """Stop a job, immediately if it is waiting."""
        if job.state == "waiting":
            job.state = "stopped"
            self._publish(job)
        elif job.state == "running":
            await self.worker.stop()

    async def work(self) -> None:
        """Run the jobs, forever."""
        while True:
            self._added.clear()
            waiting = [job for job in self._jobs.values() if job.state == "waiting"]
            if not waiting and self._warm:
                run, self._warm = self._warm, ""
                with suppress(TaskFailed, TaskStopped):  # the next job reports the error
                    await self.worker.call("warm", {} if run == "." else {"run": run})
                continue
            if not waiting:
                await self._added.wait()
                continue
            await self._do(waiting[0])
            ended = [job.id for job in self._jobs.values() if job.state != "waiting"]
            for id in ended[:-REMEMBERED]:
                del self._jobs[id]

    async def _do(self, job: Job) -> None:
        job.state, job.started = "running", time.monotonic()
        self._publish(job)
        try:
            on_message = partial(self._receive, job)
            job.result = await self.worker.call(job.task, job.arguments, on_message)
            job.state = "done"
        except TaskFailed as error:
            job.state, job.error = "failed", str(error)
        except TaskStopped:
            job.state = "stopped"
        except (OSError, ValueError) as error:  # no process, or an invalid message
            self.worker.kill()
            job.state, job.error = "failed", f"the worker process failed: {error}. Try again."
        finally:
            job.seconds = time.monotonic() - job.started
            self._publish(job)

    def _receive(self, job: Job, message: dict[str, Any]) -> None:
        if "frame" in message:
            self.events.publish("frame", job=job.id, run=job.run, **message["frame"])
        elif "note" in message:
            job.notes.append(message["note"])
            self._publish(job)
        elif "done" in message:
            job.done, job.total = message["done"], message["total"]
            self._publish(job)

    def _publish(self, job: Job) -> None:
        result = {"result": job.result} if job.state == "done" else {}
        self.events.publish("job", **job.shown(), **result)


def new_id() -> str:
    """Return an id, also the name of a folder, that sorts by time to the microsecond."""
    now = time.time()
    date = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{date}-{int(now % 1 * 10**6):05x}{secrets.choice('0123456789abcdef')}"
