"""Trackers get the numbers of the log, and none of them can end a training."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.training import trackers
from fromnoise.training.log import read_log
from fromnoise.training.trackers import TRACKERS, Tracker


@pytest.fixture
def added(monkeypatch):
    """Replace a package by a list of what it was given: (values, step)."""
    got: list = []

    def opened(run: Path, from_step: int) -> Tracker:
        got.append(("open", from_step))
        return Tracker(
            lambda values, step: got.append((dict(values), step)), lambda: got.append("closed")
        )

    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setitem(TRACKERS, "trackio", opened)
    return got


def test_a_tracker_gets_every_number_of_the_log_with_its_step(tiny, tmp_path, added):
    fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.log_to": ["trackio"]})
    opened, *rows, closed = added
    assert opened == ("open", 0)
    assert closed == "closed"
    expected = [
        ({k: v for k, v in row.items() if k != "step" and isinstance(v, int | float)}, row["step"])
        for row in read_log(tmp_path / "run")
    ]
    assert rows == expected
    assert any("loss" in values for values, _ in rows)


def test_a_resumed_run_continues_where_its_checkpoint_is(tiny, tmp_path, added):
    fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.log_to": "trackio"})
    steps = tiny["training"]["steps"]
    del added[:]
    fromnoise.resume(tmp_path / "run", overrides={"training.steps": steps + 1})
    assert added[0] == ("open", steps)
    assert all(step > steps for _, step in added[1:-1])


@pytest.mark.parametrize("fails", ["open", "add", "close"])
def test_a_tracker_that_fails_is_left_out_and_the_training_ends_as_ever(
    tiny, tmp_path, monkeypatch, caplog, added, fails
):
    def broken(*_):
        raise RuntimeError("no\nnetwork")

    def opened(run: Path, from_step: int) -> Tracker:
        if fails == "open":
            broken()
        good = lambda *_: None  # noqa: E731
        return Tracker(*(broken if fails == name else good for name in ("add", "close")))

    monkeypatch.setitem(TRACKERS, "wandb", opened)
    with caplog.at_level(logging.WARNING, "fromnoise"):
        run = fromnoise.train(
            tiny, out=tmp_path / "run", overrides={"training.log_to": ["wandb", "trackio"]}
        )
    assert run.finished
    assert [r.getMessage() for r in caplog.records if "wandb" in r.getMessage()] == [
        "wandb failed (no network) and gets no more values. Training continues, log.jsonl has all"
    ]
    assert added[-1] == "closed"


def test_a_missing_package_is_an_error_before_any_work(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"log_to has wandb, .*\. Run: pip install -e '\.\[wandb"):
        fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.log_to": ["wandb"]})
    assert not (tmp_path / "run").exists()
    fromnoise.train(tiny, out=tmp_path / "run")  # it is not needed otherwise


def test_tensorboard_writes_event_files(tiny, tmp_path):
    pytest.importorskip("tensorboard")
    fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.log_to": ["tensorboard"]})
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_package_itself_works_without_a_network(tiny, tmp_path, name):
    """In a process of its own: these packages start threads and servers."""
    pytest.importorskip(name)
    tiny["training"]["log_to"] = [name]
    script = "import fromnoise, sys, yaml; fromnoise.train(yaml.safe_load(sys.argv[1]), out='run')"
    home = {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}

    done = subprocess.run(
        [sys.executable, "-c", script, yaml.safe_dump(tiny)],
        cwd=tmp_path,
        env={**os.environ, **home},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "gets no more values" not in done.stderr
    written = tmp_path / ("run/wandb" if name == "wandb" else "trackio")
    assert [file for file in written.rglob("*") if file.is_file() and file.stat().st_size > 0]
