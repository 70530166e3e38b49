"""Contestants at the same work, in turn: round after round, one of each, every one in a process.

A machine is not equally fast from one minute to the next. Figures of two programs compare only if
both were taken side by side, so each contestant waits in a process of its own (and with a Python of
its own: peers have their own packages) until it is its turn.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

HERE = Path(__file__).parent
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"  # made by `make bench` from requirements.txt


@dataclass(frozen=True)
class Contestant:
    """`work` is "module:function" of contestants/; options are its arguments, as JSON has them.

    times: how often a round does the work. What a GPU does in milliseconds is measured so.
    like: an earlier contestant of the race; what it has chosen is this one's argument `chosen`.
    """

    name: str
    work: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: Path = Path(sys.executable)
    times: int = 1
    like: str | None = None


class Measured(NamedTuple):
    """What one contestant came to. `images`, `seconds`: of one work; `how`: it says of itself."""

    how: str
    images: int
    seconds: list[float]
    peak_gib: float

    @property
    def rates(self) -> list[float]:
        """Images per second in each round."""
        return [self.images / seconds for seconds in self.seconds]


class Worker:
    """One contestant in its process; it is asked for one round at a time, or it waits."""

    def __init__(self, contestant: Contestant, **more: Any) -> None:
        """more: arguments of the work beside the contestant's options."""
        if not contestant.python.exists():
            raise SystemExit(
                f"{contestant.name} is raced by {contestant.python}, which is not there; "
                "`make benchmarks/.venv/.installed` installs the other programs"
            )
        command = [contestant.python, HERE / "worker.py", contestant.work]
        self.process = subprocess.Popen(
            [*map(str, command), json.dumps({**contestant.options, **more})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name, self.times = contestant.name, contestant.times
        self.ready = self._answer()

    def round(self) -> float:
        """Seconds of the work, on average over those of one round."""
        return self._ask(f"round {self.times}")["seconds"]

    def profile(self) -> str:
        """A table of where the time of three rounds goes."""
        return self._ask("profile")["table"]

    def _ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it ended while it waited; there will be no answer
            print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.__exit__()
            raise SystemExit(f"{self.name} ended with {status} before its answer")
        return json.loads(line)

    def peak_gib(self) -> float:
        """The most memory that the process, on a GPU the device, has held; then it ends."""
        peak = self._ask("end")["peak_gib"]
        self.process.wait()
        return peak

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes, and waits


def race(contestants: Sequence[Contestant], *, rounds: int) -> dict[str, Measured]:
    """Every contestant, `rounds` times in turn, after one round to warm up."""
    workers: list[Worker] = []
    try:
        for contestant in contestants:
            chosen = {worker.name: worker.ready["chosen"] for worker in workers}
            like = contestant.like
            workers.append(Worker(contestant, **({"chosen": chosen[like]} if like else {})))
            workers[-1].round()
        seconds = [[worker.round() for worker in workers] for _ in range(rounds)]
        return {
            worker.name: Measured(
                worker.ready["how"], worker.ready["images"], list(column), worker.peak_gib()
            )
            for worker, column in zip(workers, zip(*seconds, strict=True), strict=True)
        }
    finally:
        for worker in workers:
            worker.__exit__()


def ratios(ours: Measured, theirs: Measured) -> list[float]:
    """How many times as fast ours was, round by round."""
    pairs = zip(ours.rates, theirs.rates, strict=True)
    return [mine / other for mine, other in pairs]


def table(measured: Mapping[str, Measured], unit: str = "images/s") -> str:
    """Median (and range) of the rates, and how many times the first is as fast as each."""
    first = next(iter(measured.values()))
    lines = []
    for name, one in measured.items():
        low, high = min(one.rates), max(one.rates)
        times = ratios(first, one)
        lines.append(
            f"  {name:34} {median(one.rates):9.2f} {unit}  ({low:.2f} to {high:.2f})  "
            f"{one.peak_gib:5.2f} GiB   {median(times):.2f} x ({min(times):.2f} to "
            f"{max(times):.2f})   {one.how}"
        )
    return "\n".join(lines)
