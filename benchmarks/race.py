"""Race contestants with the same workload, each in its own process, one round each in turn.

The speed of a machine varies from minute to minute. Figures of two programs are comparable only if
they were measured side by side. So each contestant waits for its turn in its own process, with its
own Python, since the other programs have their own packages.
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
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"  # `make bench` creates it from requirements.txt


@dataclass(frozen=True)
class Contestant:
    """A program in a race. work: "module:function" of contestants/; options: its JSON arguments.

    times: the repetitions in a round, for a workload of milliseconds on a GPU. like: an
    earlier contestant of the race, whose `chosen` becomes the argument `chosen` of this one.
    """

    name: str
    work: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: Path = Path(sys.executable)
    times: int = 1
    like: str | None = None


class Measured(NamedTuple):
    """The figures of a contestant. images, seconds: of one repetition; how: a description."""

    how: str
    images: int
    seconds: list[float]
    peak_gib: float

    @property
    def rates(self) -> list[float]:
        """Return the images per second of each round."""
        return [self.images / seconds for seconds in self.seconds]


class Worker:
    """A contestant in its own process, which waits until a round is requested."""

    def __init__(self, contestant: Contestant, **more: Any) -> None:
        """Start the process. more: arguments in addition to the contestant's options."""
        if not contestant.python.exists():
            raise SystemExit(
                f"{contestant.name} needs {contestant.python}, which does not exist. Run "
                "`make benchmarks/.venv/.installed` to install the other programs."
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
        """Run one round; return the mean seconds of a repetition."""
        return self._ask(f"round {self.times}")["seconds"]

    def profile(self) -> str:
        """Return a profile of three rounds as a table."""
        return self._ask("profile")["table"]

    def _ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it ended while it waited, so there is no answer
            print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.__exit__()
            raise SystemExit(f"{self.name} exited with status {status}. See its output above.")
        return json.loads(line)

    def peak_gib(self) -> float:
        """Return the peak memory of the process (on a GPU, of the device), and end the process."""
        peak = self._ask("end")["peak_gib"]
        self.process.wait()
        return peak

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes, and waits


def race(contestants: Sequence[Contestant], *, rounds: int) -> dict[str, Measured]:
    """Run `rounds` rounds of every contestant in turn, after one warm-up round each."""
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
    """Return the ratio of the rates, ours/theirs, in each round."""
    pairs = zip(ours.rates, theirs.rates, strict=True)
    return [mine / other for mine, other in pairs]


def table(measured: Mapping[str, Measured], unit: str = "images/s") -> str:
    """Return median and range of the rates, and the speed of the first relative to each."""
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
