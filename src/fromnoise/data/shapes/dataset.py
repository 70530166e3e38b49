"""Write a synthetic data set in the layout of i-CLEVR.

It has 24 names (8 colours × cube, sphere, cylinder), 1 to 3 of them per image, and two lists of
conditions: sets of names that occur in the images, and sets that do not.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fromnoise.checkpoints import atomic_folder, require_empty_folder
from fromnoise.data.errors import DataError
from fromnoise.data.shapes.rendering import NAMES, random_scene, shade
from fromnoise.rng import seed_of

IMAGES = "iclevr"  # the folder of the images
_MIN_SIDE = 16  # pixels; in smaller images a cube is not recognisable
_CHUNK = 25  # images per task
_IMAGES_PER_WORKER = 400  # they take as long as the start of a process
# Conditions without an image use at most a third of the sets of 1, 2 and 3 names.
_MAX_CONDITIONS = {k: comb(len(NAMES), k) // 3 for k in (1, 2, 3)}

Names = tuple[str, ...]


class Plan(NamedTuple):
    """The sets of names in each image, and in the two lists of conditions."""

    train: list[Names]
    test: list[Names]  # each occurs in `train`
    new_test: list[Names]  # none occurs in `train`


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
    """Render a synthetic data set with several labels per image, and return its folder.

    Source `iclevr` reads the folder: objects.json, train.json, test.json, new_test.json,
    README.txt and iclevr/ with the images as PNG. Image i is a function of (seed, test, i) and the
    size, so a larger set begins with the smaller one. The folder appears when it is complete.

    Arguments:
        folder: new, or empty.
        train: the number of images, at least 1.
        test: the length of each list of conditions, 1..774.
        size: the side of the images in pixels, or (H, W); at least 16.
        workers: processes; by default one per CPU, and fewer for few images. With more than one,
            call this function below `if __name__ == "__main__":`.
        progress: called with (images done, images).

    Raises `DataError`, `FolderNotEmpty` and `DiskFull`.
    """
    shape = (size, size) if isinstance(size, int) else (size[0], size[1])
    limits = (("train", train, 1), ("test", test, 1), ("seed", seed, 0), ("workers", workers, 1))
    for name, value, least in (*limits, ("size", min(shape), _MIN_SIDE)):
        if value is not None and value < least:
            raise DataError(f"{name} is {value}. Give at least {least}.")
    if test > (most := sum(_MAX_CONDITIONS.values())):
        raise DataError(f"test is {test}. Give at most {most}.")
    folder = Path(folder).expanduser().resolve()
    require_empty_folder(folder)  # before the plan, which takes a while
    plan = plan_sets(train, test, seed=seed)
    try:
        with atomic_folder(folder) as writing, ExitStack() as stack:
            (writing / IMAGES).mkdir()
            _write_texts(writing, plan, shape, seed)
            workers = workers or min(os.cpu_count() or 1, train // _IMAGES_PER_WORKER)
            render_all = map
            if workers > 1:
                # Threads would wait for each other (the arrays are small), and a fork copies locks.
                # Only the main process handles Ctrl-C.
                pool = ProcessPoolExecutor(
                    workers,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=signal.signal,
                    initargs=(signal.SIGINT, signal.SIG_IGN),
                )
                stack.callback(pool.shutdown, cancel_futures=True)
                render_all = partial(pool.map, chunksize=_CHUNK)
            render = partial(_render, writing / IMAGES, shape, seed)
            for done, _ in enumerate(render_all(render, range(train), plan.train), start=1):
                if progress is not None:
                    progress(done, train)
            if hasattr(os, "sync"):
                os.sync()  # all at once: one by one, thousands of files take many seconds
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process ended early. Free some memory, call this function below "
            '`if __name__ == "__main__":`, or set workers=1.'
        ) from error
    return folder


def plan_sets(train: int, test: int, *, seed: int) -> Plan:
    """Choose the sets of names. All names are about equally frequent in each of the three lists.

    The numbers of names cycle through 1, 2, 3 for images and 1, 2, 3, 3 for conditions, as far as
    the names allow. Conditions are distinct, except in `test` if there are fewer images.
    """
    left, sizes = dict(_MAX_CONDITIONS), []
    for i in range(test):  # if a third of the sets of a size is used, take the next size
        size = next(k for k in range((1, 2, 3, 3)[i % 4], 4) if left[k])
        left[size] -= 1
        sizes.append(size)
    new_test = balanced_sets(sizes, _generator(seed, "new_test"), exclude=())
    # The first images have the conditions of `test`, so these are balanced too.
    first = balanced_sets(sizes[:train], _generator(seed, "test"), exclude=new_test)
    others = balanced_sets(
        [1 + i % 3 for i in range(train - len(first))],
        _generator(seed, "train"),
        exclude=new_test,
        repeat=True,
    )
    return Plan(first + others, [first[i % len(first)] for i in range(test)], new_test)


def balanced_sets(
    sizes: Sequence[int],
    rng: np.random.Generator,
    *,
    exclude: Collection[Names],
    repeat: bool = False,
) -> list[Names]:
    """Draw sets of names of the given sizes, from the names that are least used so far.

    Sets in `exclude`, in any order, are never drawn, others once, or with `repeat` any number.
    """
    taken = {frozenset(names) for names in exclude}
    used, sets = np.zeros(len(NAMES)), []
    for size in sizes:
        tries = 0
        while True:
            # Ties are broken at random. After some tries near ties are too, because every set of
            # the least used names may be taken.
            order = np.argsort(used + rng.random(len(NAMES)) * (1 + tries // 10), kind="stable")
            chosen = tuple(NAMES[k] for k in order[:size])
            if frozenset(chosen) not in taken:
                break
            tries += 1
        if not repeat:
            taken.add(frozenset(chosen))
        used[order[:size]] += 1
        sets.append(chosen)
    return sets


def _generator(seed: int, purpose: str | int) -> np.random.Generator:
    return np.random.default_rng(seed_of("shapes", seed, purpose))


def _render(folder: Path, size: tuple[int, int], seed: int, i: int, names: Names) -> None:
    """Write image i. Runs in a worker process."""
    scene, rays = random_scene(names, size, _generator(seed, i))
    Image.fromarray(shade(scene, rays)).save(folder / _file_name(i))


def _write_texts(folder: Path, plan: Plan, size: tuple[int, int], seed: int) -> None:
    objects = {name: i for i, name in enumerate(NAMES)}
    named = {_file_name(i): names for i, names in enumerate(plan.train)}
    for name, content in (plan._asdict() | {"objects": objects, "train": named}).items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    release = version("fromnoise")
    text = f"""\
SYNTHETIC: rendered by fromnoise {release} (write_shapes). No photographs, no CLEVR data.

{len(plan.train)} images of {size[0]}×{size[1]} pixels (H×W), seed {seed}, 1 to 3 objects each.
objects.json    the 24 names and their ids
train.json      the names of the objects in each image of {IMAGES}/
test.json       {len(plan.test)} conditions that occur in the images
new_test.json   {len(plan.test)} conditions that occur in none of them

Licence: CC0 1.0 (public domain), https://creativecommons.org/publicdomain/zero/1.0/
"""
    (folder / "README.txt").write_text(text, encoding="utf-8")


def _file_name(i: int) -> str:
    return f"shapes_{i:06}.png"
