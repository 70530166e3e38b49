import json
import struct
import sys
import threading
from itertools import pairwise
from pathlib import Path

import clock
import pytest
from race import Contestant
from turns import Stage, Turns, finish, take_turns

# It counts until it has been stopped three times, however fast the machine is.
COUNTING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from clock import Clock
clock = Clock()
while True:
    before = clock.stops()[0]
    at, shown = time.monotonic(), clock.seconds()
    if before == clock.stops()[0]:
        print(before, at, shown, flush=True)
    if before >= 3:
        break
    time.sleep(0.002)
"""


def counted(log: Path) -> list[tuple[int, float, float]]:
    rows = [line.split() for line in log.read_text().splitlines()]
    return [(int(stops), float(at), float(shown)) for stops, at, shown in rows]


@pytest.fixture
def two(tmp_path):
    """What two programs counted that took turns."""
    command = [sys.executable, "-c", COUNTING, str(Path(clock.__file__).parent)]
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    take_turns([Turns(command, log) for log in logs], slice_seconds=0.1)
    return [counted(log) for log in logs]


def test_only_one_runs_at_a_time_and_only_its_running_time_counts(two):
    turns = []
    for who, counts in enumerate(two):
        assert counts[-1][0] >= 3
        for stops in {count[0] for count in counts}:
            times = [at for before, at, _ in counts if before == stops]
            turns.append((times[0], times[-1], who))
    turns.sort()
    for (_, end, _), (start, _, _) in pairwise(turns):
        assert end < start

    for who, counts in enumerate(two):
        (_, begun, shown_first), (_, ended, shown_last) = counts[0], counts[-1]
        others = sum(e - s for s, e, it in turns if it != who and begun < s and e < ended)
        assert 0 < shown_last - shown_first <= ended - begun - others + 1e-9
        shown = [count[2] for count in counts]
        assert shown == sorted(shown)


def test_the_clock_subtracts_what_it_is_told_even_between_two_readings(tmp_path, monkeypatch):
    told = tmp_path / "stops"
    told.write_bytes(clock.STOPS.pack(0, 0.0))
    now = 100.0
    monkeypatch.setenv(clock.VARIABLE, str(told))
    monkeypatch.setattr(clock.time, "monotonic", lambda: now)
    it = clock.Clock()
    now = 103.0
    assert it.seconds() == 3

    def stopped_in_between() -> float:
        nonlocal now
        if now == 103.0:
            now = 160.0
            with told.open("r+b") as file:
                file.write(struct.pack("=qd", 1, 50.0))
        return now

    monkeypatch.setattr(clock.time, "monotonic", stopped_in_between)
    assert it.seconds() == 10
    assert clock.Clock().seconds() == 0


def test_a_clock_without_turns_runs_on_and_ends_what_it_is_to_end(monkeypatch):
    monkeypatch.delenv(clock.VARIABLE, raising=False)
    ended, never = threading.Event(), threading.Event()
    with clock.ending(clock.Clock(), 0, ended.set):
        assert ended.wait(60)
    with clock.ending(clock.Clock(), 1e9, never.set):
        pass
    assert not never.is_set()


def test_one_that_fails_says_why_and_the_others_are_ended(tmp_path):
    endless = Turns([sys.executable, "-c", "import time; time.sleep(1e6)"], tmp_path / "a.log")
    failing = Turns([sys.executable, "-c", "raise SystemExit('no room')"], tmp_path / "b.log")
    with pytest.raises(SystemExit, match=r"b\.log: exit status 1: no room"):
        take_turns([endless, failing], slice_seconds=0.1)
    assert endless.process is not None
    assert endless.process.returncode == -9


def test_what_is_done_is_not_done_again(tmp_path):
    def stage(name: str, python: str) -> Stage:
        return Stage("said", Contestant(name, "builtins:dict", {"n": 1}, Path(python)))

    answer = {"n": 1, "folder": str(tmp_path / "a" / "said")}
    assert finish([stage("a", sys.executable)], tmp_path, slice_seconds=60) == {"a": answer}
    kept = finish([stage("a", "/nowhere")], tmp_path, slice_seconds=60)
    assert kept == {"a": answer} == {"a": json.loads((tmp_path / "a" / "said.json").read_text())}
    with pytest.raises(FileNotFoundError):
        finish([stage("a", "/nowhere"), stage("b", "/nowhere")], tmp_path, slice_seconds=60)
