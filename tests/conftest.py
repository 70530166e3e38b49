"""What many tests share: a cache of their own, a tiny recipe and run, and the command line."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import settings

import fromnoise
from fromnoise.cli import main

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY = {
    "data": {"source": "digits", "flip": True},
    "network": {
        "name": "ddpm",
        "channels": 8,
        "multipliers": [1, 2],
        "num_res_blocks": 1,
        "dropout": 0.2,
        "groups": 4,
    },
    "diffusion": {"T": 100, "schedule": "cosine"},
    "training": {
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "channels_last": False,
        "device": "cpu",
        "log_every": 2,
        "checkpoint_every": 3,
    },
    "sampling": {"steps": 5},
}


class Result(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROMNOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A recipe of milliseconds, free to be changed."""
    return copy.deepcopy(TINY)


@pytest.fixture
def recipe_file(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe with checkpoints 000003 and 000006. Not to be written to."""
    return fromnoise.train(TINY, out=tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, free to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """cli("sample", path, "--num", 2): the command line in this process; log lines go to caplog."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert isinstance(exit_.value.code, int)
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def shell() -> Callable[..., Result]:
    """shell("sample", path): the command line in a process of its own."""

    def call(*arguments: object) -> Result:
        command = [sys.executable, "-m", "fromnoise", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return call
