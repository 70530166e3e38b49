"""Kill short runs at random moments, resume them, and compare them with an uninterrupted one.

    python tests/kills.py 100

A run trains, draws previews, scores, and saves checkpoints and averages. Each trial kills it with
SIGKILL at a random moment, and its first resume too in half of the trials; then it resumes to the
end. Equal means: the same files, weights, optimiser, averages and previews to the byte, and the
same log without times. It prints a line per trial, and how many were equal. Needs `os.fork`.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

from fromnoise.cli import main
from fromnoise.training.run import RECIPE_FILE

RECIPE = {
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
        "steps": 40,
        "batch_size": 8,
        "log_every": 2,
        "checkpoint_every": 5,
        "preview_every": 10,
        "milestone_every": 10,
        "ema_lengths": [0.1],
        "device": "cpu",
    },
    "sampling": {"steps": 5},
    "evaluation": {"every": 20, "num_images": 64},
}
TIMES = {"seconds", "images_per_second"}  # keys of the log that differ between equal runs


def start(*arguments: object, log: Path) -> int:
    """Run a command of fromnoise in a forked process, which has torch already; return its id."""
    if child := os.fork():
        return child
    os.setpgid(0, 0)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["fromnoise", *map(str, arguments)]
    code = 1
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        os._exit(code)


def kill_after(process: int, seconds: float) -> None:
    """Kill a process after a while, unless it ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def content(run: Path) -> dict[str, object]:
    """Return what must be equal: the digest of every file, and the log without times."""
    found: dict[str, object] = {}
    for file in sorted(file for file in run.rglob("*") if file.is_file()):
        name = file.relative_to(run).as_posix()
        if file.name == "log.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [_without_times(row) for row in rows]
        elif file.name == "state.json":
            found[name] = sorted(json.loads(file.read_text()))
        elif file.name != "loss.png" and not file.name.startswith("."):  # the curve shows times
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _without_times(row: dict) -> dict:
    row = {key: value for key, value in row.items() if key not in TIMES}
    if "evaluation" in row:
        row["evaluation"] = {k: v for k, v in row["evaluation"].items() if k not in TIMES}
    return row


def trial(folder: Path, recipe: Path, seconds: float, draws: random.Random) -> str:
    """Kill and resume one run; return the moments of the kills."""
    run, log, moments = folder / "run", folder / "log", []
    arguments: tuple[object, ...] = ("train", recipe, "--out", run)
    for _ in range(1 + (draws.random() < 0.5)):
        moment = draws.uniform(0, seconds)
        kill_after(start(*arguments, log=log), moment)
        checkpoints = sorted(run.glob("checkpoints/[0-9]*"))
        moments.append(f"{moment:.2f} s ({checkpoints[-1].name if checkpoints else 'none'})")
        if (run / RECIPE_FILE).is_file():
            arguments = ("resume", run)
    _, status = os.waitpid(start(*arguments, log=log), 0)
    return ", ".join(moments) + (
        f", exit {code}" if (code := os.waitstatus_to_exitcode(status)) else ""
    )


def campaign(count: int, seed: int = 0) -> int:
    """Run so many trials; return how many were equal to the uninterrupted run."""
    equal, draws = 0, random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE))
        os.environ["FROMNOISE_CACHE"] = str(folder / "cache")
        for reference in ("first", "whole"):  # the first decodes the images
            shutil.rmtree(folder / reference, ignore_errors=True)
            started = time.monotonic()
            process = start("train", recipe, "--out", folder / reference, log=folder / "log")
            assert os.waitpid(process, 0)[1] == 0, (folder / "log").read_text()
            seconds = time.monotonic() - started
        whole = content(folder / "whole")
        for i in range(count):
            here = folder / f"{i}"
            here.mkdir()
            moments = trial(here, recipe, seconds, draws)
            found = content(here / "run") if (here / "run").exists() else {}
            names = sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))
            equal += not names
            print(f"{i + 1}: {moments}: {', '.join(names[:8]) or 'equal'}", flush=True)
            if names:
                print((here / "log").read_text()[-600:], flush=True)
            shutil.rmtree(here)
    print(f"{equal} of {count} equal")
    return equal


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    sys.exit(campaign(wanted) != wanted)
