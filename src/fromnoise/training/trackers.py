"""Send the numbers of the log to trackers: `training.log_to`.

log.jsonl always has all numbers: a tracker that fails is dropped with a warning, and the training
continues. Each tracker is a package of its own, and none needs network access. Weights & Biases is
offline unless you are logged in or `WANDB_MODE` is set.
"""

import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fromnoise.config.errors import ConfigError
from fromnoise.model.spec import RECIPE_FILE

PROJECT = "fromnoise"
ID_FILE = "tracker-id"  # in the run, so that a resumed run continues its curves
logger = logging.getLogger("fromnoise")


class Tracker(NamedTuple):
    """The functions of an open tracker."""

    add: Callable[[Mapping[str, float], int], object]  # (values by name, step)
    close: Callable[[], object]


def tensorboard(run: Path, from_step: int) -> Tracker:
    """Write event files into the run's folder `tensorboard`."""
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(run / "tensorboard"), purge_step=from_step + 1)

    def add(values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            board.add_scalar(key, value, step)

    return Tracker(add, board.close)


def wandb(run: Path, from_step: int) -> Tracker:
    """Send the values to Weights & Biases, or write them into the run's folder `wandb`."""
    package = import_module("wandb")

    offline = "WANDB_MODE" not in os.environ and not package.login(prompt=False)
    options = {"dir": run, "id": _id_of(run), "resume": "allow"}
    options |= {"mode": "offline"} if offline else {}
    sent = package.init(project=PROJECT, name=run.name, config=_recipe_of(run), **options)
    sent.define_metric("*", step_metric="step")
    return Tracker(lambda values, step: sent.log({**values, "step": step}), sent.finish)


def trackio(run: Path, from_step: int) -> Tracker:
    """Write the values to the local database of Trackio."""
    package = import_module("trackio")

    name = f"{run.name}-{_id_of(run)}"
    package.init(project=PROJECT, name=name, config=_recipe_of(run), resume="allow", embed=False)
    return Tracker(lambda values, step: package.log(dict(values), step=step), package.finish)


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "trackio": trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if the package of a tracker is missing."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"training.log_to has {name}, but {name} is not installed. Run: pip install -e "
                f"'.[{name}]'"
            )


class Trackers:
    """The trackers of a run. A tracker that fails receives no further values."""

    def __init__(self, names: Sequence[str], run: Path, from_step: int) -> None:
        """Open the trackers, and cut earlier curves after `from_step`."""
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, lambda name=name: TRACKERS[name](run, from_step), keep=True)

    def add(self, values: Mapping[str, Any], step: int) -> None:
        """Send the values that are numbers to all trackers."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        for name, tracker in list(self._open.items()):
            self._try(name, lambda add=tracker.add: add(numbers, step))

    def close(self) -> None:
        """Close all trackers."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, work: Callable[[], Any], *, keep: bool = False) -> None:
        try:
            made = work()
            if keep:
                self._open[name] = made
        except Exception as error:
            self._open.pop(name, None)
            logger.warning(
                "%s failed (%s) and gets no more values. Training continues, log.jsonl has all",
                name,
                " ".join(str(error).split()) or type(error).__name__,
            )


def _id_of(run: Path) -> str:
    """Return the run's id. The first call creates it."""
    file = run / ID_FILE
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8])
    return file.read_text()


def _recipe_of(run: Path) -> dict[str, Any]:
    file = run / RECIPE_FILE
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
