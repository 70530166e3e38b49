"""The harness: contestants take turns, each in a process of its own, and are told apart."""

import os
import sys

import pytest
import race
from race import Contestant, Measured, Worker, ratios

FAKES = '''
import os, sys, threading, time
from work import Work

def writes(*, name, log, images=4):
    """Notes its process and its name at every round."""
    def round():
        with open(log, "a") as file:
            print(name, os.getpid(), file=file)
    return Work(f"as {name}", images, round)

def sleeps(*, seconds, images):
    return Work("asleep", images, lambda: time.sleep(seconds))

def chats(*, images):
    print("hello from the build")
    def round():
        print('{"seconds": -1}')
        os.write(1, b'{"seconds": -2}\\n')
        os.system('echo "{}"')
    return Work("loud", images, round)

def multiplies():
    import torch
    matrix = torch.ones(8, 8)
    return Work("products", 1, lambda: torch.mm(matrix, matrix))

def dies(*, at, code):
    """In its round `at`, counted from 0, which warms up."""
    rounds = iter(range(99))
    return Work("mortal", 1, lambda: os._exit(code) if next(rounds) == at else None)

def dies_waiting(*, mark):
    def end():
        while not os.path.exists(mark):
            time.sleep(0.01)
        os._exit(7)
    threading.Thread(target=end, daemon=True).start()
    return Work("mortal", 1, lambda: None)

def chooses(*, chosen=None):
    precision = (chosen or {"precision": "fp4"})["precision"]
    how = f"{precision}{', as told' if chosen else ''}"
    return Work(how, 1, lambda: None, chosen={"precision": precision})

def fails():
    raise RuntimeError("no such network")

def holds(*, mebibytes):
    kept = []
    return Work("full", 1, lambda: kept.append(bytearray(b"x" * (mebibytes << 20))))
'''


@pytest.fixture(autouse=True)
def _fakes(tmp_path, monkeypatch):
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_contestants_alternate_each_in_one_process_of_its_own(tmp_path):
    log = tmp_path / "log"
    names = ["a", "b", "c"]
    runners = [Contestant(n, "fakes:writes", {"name": n, "log": str(log)}) for n in names]
    measured = race.race(runners, rounds=3)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [name for name, _ in lines] == names * 4  # one round warms up and is not counted
    assert len({pid for _, pid in lines}) == len({tuple(line) for line in lines}) == 3
    assert str(os.getpid()) not in {pid for _, pid in lines}
    assert list(measured) == names
    assert {len(one.seconds) for one in measured.values()} == {3}
    assert [one.how for one in measured.values()] == ["as a", "as b", "as c"]


def test_none_of_them_is_left_when_the_race_is_over(tmp_path):
    log = tmp_path / "log"
    race.race([Contestant("a", "fakes:writes", {"name": "a", "log": str(log)})], rounds=1)
    pid = int(log.read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_round_takes_as_long_as_it_takes():
    sleeper = Contestant("sleeper", "fakes:sleeps", {"seconds": 0.2, "images": 10})
    (one,) = race.race([sleeper], rounds=2).values()
    assert all(0.2 <= seconds < 10 for seconds in one.seconds)
    assert one.rates == [10 / seconds for seconds in one.seconds]


@pytest.mark.slow
def test_a_round_can_be_the_work_many_times_over(tmp_path):
    """It warms up as often; seconds are those of one."""
    log = tmp_path / "log"
    often = Contestant("often", "fakes:writes", {"name": "often", "log": str(log)}, times=3)
    long = Contestant("long", "fakes:sleeps", {"seconds": 0.3, "images": 10}, times=3)
    measured = race.race([often, long], rounds=2)
    assert len(log.read_text().splitlines()) == 9
    assert measured["often"].images == 4
    assert all(0.3 <= seconds < 0.89 for seconds in measured["long"].seconds)


def test_one_does_as_another_has_chosen():
    measured = race.race(
        [
            Contestant("first", "fakes:chooses"),
            Contestant("second", "fakes:chooses", like="first"),
            Contestant("third", "fakes:chooses", {"chosen": {"precision": "fp8"}}),
        ],
        rounds=1,
    )
    assert [one.how for one in measured.values()] == ["fp4", "fp4, as told", "fp8, as told"]


@pytest.mark.slow
def test_a_profile_names_the_operations_of_three_rounds():
    with Worker(Contestant("multiplier", "fakes:multiplies")) as worker:
        worker.round()
        (row,) = [line.split() for line in worker.profile().splitlines() if "aten::mm " in line]
        assert row[-1] == "3"
        assert worker.round() > 0


def test_what_a_contestant_prints_is_no_answer(capfd):
    (one,) = race.race([Contestant("loud", "fakes:chats", {"images": 3})], rounds=3).values()
    assert one.how == "loud"
    assert one.images == 3
    assert min(one.seconds) > 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello from the build" in err  # it is seen, but elsewhere


@pytest.mark.parametrize("at", [0, 2])
def test_one_that_dies_is_named_with_its_exit_status(at, tmp_path):
    log = tmp_path / "log"
    runners = [
        Contestant("steady", "fakes:writes", {"name": "steady", "log": str(log)}),
        Contestant("mortal", "fakes:dies", {"at": at, "code": 3}),
    ]
    with pytest.raises(SystemExit, match=r"^mortal exited with status 3\. See"):
        race.race(runners, rounds=4)
    lines = log.read_text().splitlines()
    assert len(lines) == at + 1
    with pytest.raises(ProcessLookupError):  # and the other one is not left behind
        os.kill(int(lines[0].split()[1]), 0)


def test_one_that_dies_while_it_waits_is_named_too(tmp_path):
    mark = tmp_path / "now"
    with Worker(Contestant("mortal", "fakes:dies_waiting", {"mark": str(mark)})) as worker:
        worker.round()
        mark.touch()
        worker.process.wait(timeout=60)
        with pytest.raises(SystemExit, match=r"^mortal exited with status 7\. See"):
            worker.round()


def test_one_that_cannot_be_built_is_named_and_says_why(capfd):
    with pytest.raises(SystemExit, match=r"^broken exited with status 1\. See"):
        race.race([Contestant("broken", "fakes:fails")], rounds=1)
    assert "no such network" in capfd.readouterr().err


def test_memory_is_that_of_the_contestant_alone():
    """Not that of this process, which is larger than the small one and forks both."""
    runners = [Contestant(f"{n}", "fakes:holds", {"mebibytes": n}) for n in (1, 200)]
    small, large = race.race(runners, rounds=1).values()  # a round to warm up, and one more
    assert 0.36 < large.peak_gib - small.peak_gib < 0.6  # 398 MiB


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_each_has_the_python_that_it_asks_for(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nNAMED=own exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "own.py").write_text(
        "import os\nfrom work import Work\n"
        "def say():\n    return Work(os.environ.get('NAMED', 'ours'), 1, lambda: None)\n"
    )
    runners = [Contestant("ours", "own:say"), Contestant("theirs", "own:say", {}, python)]
    measured = race.race(runners, rounds=1)
    assert [one.how for one in measured.values()] == ["ours", "own"]


# ---- figures, by hand ---------------------------------------------------------------------------

OURS = Measured("fast", 60, [1.0, 2.0, 4.0], 0.5)  # 60, 30 and 15 images/s
THEIRS = Measured("slow", 10, [1.0, 1.0, 2.0], 2.0)  # 10, 10 and 5 images/s


def test_ratios_are_taken_round_by_round_of_images_per_second():
    assert OURS.rates == [60, 30, 15]
    assert ratios(OURS, THEIRS) == [6, 3, 3]
    assert all(a * b == 1 for a, b in zip(ratios(OURS, THEIRS), ratios(THEIRS, OURS), strict=True))


def test_rounds_that_were_not_run_by_both_cannot_be_compared():
    with pytest.raises(ValueError, match="shorter"):
        ratios(OURS, THEIRS._replace(seconds=[1.0]))


def test_the_printed_table_has_medians_and_ranges():
    first, second = race.table({"fromnoise": OURS, "other": THEIRS}).splitlines()
    assert " ".join(first.split()) == (
        "fromnoise 30.00 images/s (15.00 to 60.00) 0.50 GiB 1.00 x (1.00 to 1.00) fast"
    )
    assert " ".join(second.split()) == (
        "other 10.00 images/s (5.00 to 10.00) 2.00 GiB 3.00 x (3.00 to 6.00) slow"
    )
