"""Synthetic data in the layout of i-CLEVR: which names are seen together, and the files.

24 names (8 colours × cube, sphere, cylinder), 1 to 3 of them in an image, and two lists of
conditions: sets of names that images show, and sets that none of them shows.
"""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from math import comb
from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.data.errors import DataError
from fromnoise.data.shapes.rendering import shade
from fromnoise.data.shapes.scenes import NAMES, random_scene
from fromnoise.rng import seed_of

IMAGES = "iclevr"  # the folder of the images
_LEAST_SIDE = 16  # pixels; below this a cube is no longer a cube
_CHUNK = 25  # images a task
_WORTH = 400  # images that take as long as starting a process
# Conditions that no image shows take at most a third of the sets of 1, 2 and 3 names.
_ROOM = {k: comb(len(NAMES), k) // 3 for k in (1, 2, 3)}

Names = tuple[str, ...]

_README = """\
SYNTHETIC: rendered by fromnoise {version} (write_shapes). No photographs, and nothing of CLEVR.

{train} images of {height}×{width} pixels (H×W), seed {seed}, 1 to 3 objects each.
objects.json    the 24 names and their ids
train.json      the names of what is on each image of {images}/
test.json       {test} conditions that occur among the images
new_test.json   {test} conditions that occur on none of them

Licence: CC0 1.0 (public domain), https://creativecommons.org/publicdomain/zero/1.0/
"""


@dataclass(frozen=True)
class Plan:
    """What is on each image, and the two lists of conditions; sets of names all."""

    train: list[Names]
    test: list[Names]  # each on an image of `train`
    new_test: list[Names]  # on none of them


def write_shapes(
    folder: str | Path,
    *,
    train: int = 18009,
    test: int = 32,
    size: int | tuple[int, int] = 64,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Renders a synthetic data set with many labels an image, and returns its folder.

    The folder is what source `iclevr` reads: objects.json, train.json, test.json, new_test.json,
    README.txt and iclevr/ with the images as PNG. Image i is a function of (seed, test, i) and the
    size, so a larger set begins with the smaller one, whatever the number of processes. The folder
    appears when everything in it is written.

    Arguments:
        folder: new, or empty.
        train: the number of images, at least 1.
        test: the length of each list of conditions, 1..774.
        size: the side of the images in pixels, or (H, W); at least 16.
        seed: at least 0.
        workers: processes; by default one for each CPU, and one for a few images. A program that
            calls this with more than one does so below `if __name__ == "__main__":`.
        progress: called with (images done, images).

    Raises `DataError`.
    """
    shape = (size, size) if isinstance(size, int) else (size[0], size[1])
    _check_options(train, test, shape, seed, workers)
    folder = Path(folder).expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder; name a new one")
    plan = plan_sets(train, test, seed=seed)
    try:
        with _appearing(folder) as partial:
            (partial / IMAGES).mkdir()
            _write_texts(partial, plan, shape, seed)
            tasks = [
                _Task(partial / IMAGES, shape, seed, start, plan.train[start : start + _CHUNK])
                for start in range(0, train, _CHUNK)
            ]
            with closing(_run(tasks, workers or _default_workers(train))) as images:
                for done, _ in enumerate(images, start=1):
                    if progress is not None:
                        progress(done, train)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    except BrokenProcessPool as error:
        raise DataError(
            "a process that drew images ended early; there may be too little memory, or the "
            'program lacks `if __name__ == "__main__":` around this call; workers=1 needs neither'
        ) from error
    return folder


def plan_sets(train: int, test: int, *, seed: int) -> Plan:
    """Which names come together: all of them about equally often, in each of the three lists.

    Images have 1, 2 and 3 names in turn, conditions 1, 2, 3 and 3, as often as the names allow.
    Conditions are distinct, except in `test` where there are fewer images than that.
    """
    sizes = _condition_sizes(test)
    new_test = deal(sizes, _chance(seed, "new_test"), without=())
    # The first images show the conditions, so that these come out even too.
    shown = deal(sizes[:train], _chance(seed, "test"), without=new_test)
    others = deal(
        [1 + i % 3 for i in range(train - len(shown))],
        _chance(seed, "train"),
        without=new_test,
        again=True,
    )
    return Plan(shown + others, [shown[i % len(shown)] for i in range(test)], new_test)


def deal(
    sizes: Sequence[int],
    rng: np.random.Generator,
    *,
    without: Collection[Names],
    again: bool = False,
) -> list[Names]:
    """Sets of so many names each, always of those that came up least often so far.

    Sets in `without` do not come up, in whatever order; others come up once, or, with `again`,
    any number of times.
    """
    taken = {frozenset(names) for names in without}
    used, sets = np.zeros(len(NAMES)), []
    for size in sizes:
        tries = 0
        while True:
            # Chance decides among equals, and after some tries also among near equals, for where
            # every set of the least used names is taken.
            order = np.argsort(used + rng.random(len(NAMES)) * (1 + tries // 10), kind="stable")
            chosen = tuple(NAMES[k] for k in order[:size])
            if frozenset(chosen) not in taken:
                break
            tries += 1
        if not again:
            taken.add(frozenset(chosen))
        used[order[:size]] += 1
        sets.append(chosen)
    return sets


def _condition_sizes(count: int) -> list[int]:
    """1, 2, 3, 3 in turn; where a third of all the sets of a size is taken, the next larger."""
    room, sizes = dict(_ROOM), []
    for i in range(count):
        size = next(k for k in range((1, 2, 3, 3)[i % 4], 4) if room[k])
        room[size] -= 1
        sizes.append(size)
    return sizes


def _chance(seed: int, what: str | int) -> np.random.Generator:
    return np.random.default_rng(seed_of("shapes", int(seed), what))


@dataclass(frozen=True)
class _Task:
    folder: Path
    size: tuple[int, int]
    seed: int
    start: int  # number of the first image
    sets: list[Names]


def _draw(task: _Task) -> list[str]:
    """Writes the images of a task and returns their names; what other processes run."""
    files = [_file_name(i) for i in range(task.start, task.start + len(task.sets))]
    for i, (file, names) in enumerate(zip(files, task.sets, strict=True), start=task.start):
        scene, rays = random_scene(names, task.size, _chance(task.seed, i))
        Image.fromarray(shade(scene, rays)).save(task.folder / file)
    return files


def _run(tasks: Sequence[_Task], workers: int) -> Generator[str, None, None]:
    """Yields the file of each image, in order, some time after it was written."""
    if workers == 1:
        for task in tasks:
            yield from _draw(task)
        return
    # Threads would wait for each other (the arrays are small), and a fork would copy locks.
    spawn = multiprocessing.get_context("spawn")
    quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that was started
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=signal.signal, initargs=quiet)
    with pool:
        for files in pool.map(_draw, tasks):  # which calls off what waits when this ends early
            yield from files


def _default_workers(images: int) -> int:
    return max(1, min(os.cpu_count() or 1, images // _WORTH))


def _write_texts(folder: Path, plan: Plan, size: tuple[int, int], seed: int) -> None:
    named = {_file_name(i): names for i, names in enumerate(plan.train)}
    for name, content in (
        ("objects", {name: i for i, name in enumerate(NAMES)}),
        ("train", named),
        ("test", plan.test),
        ("new_test", plan.new_test),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    text = _README.format(
        version=version("fromnoise"),
        train=len(plan.train),
        test=len(plan.test),
        height=size[0],
        width=size[1],
        seed=seed,
        images=IMAGES,
    )
    (folder / "README.txt").write_text(text, encoding="utf-8")


def _file_name(i: int) -> str:
    return f"shapes_{i:06}.png"


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder beside its place, which moves there when all went well, and else disappears."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()  # empty; not every system renames onto it
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_options(
    train: int, test: int, size: tuple[int, int], seed: int, workers: int | None
) -> None:
    most = sum(_ROOM.values())
    if train < 1:
        raise DataError(f"train is {train}; allowed: at least 1 image")
    if not 1 <= test <= most:
        raise DataError(f"test is {test}; allowed: 1..{most} conditions")
    if min(size) < _LEAST_SIDE:
        raise DataError(
            f"size is {size[0]}×{size[1]} (H×W); allowed: at least {_LEAST_SIDE} pixels a side"
        )
    if seed < 0:
        raise DataError(f"seed is {seed}; allowed: 0 and more")
    if workers is not None and workers < 1:
        raise DataError(f"workers is {workers}; allowed: at least 1 process")
