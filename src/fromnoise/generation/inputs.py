"""What every edit reads, and how its results are named and shown."""

import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.checkpoints import require_empty_folder
from fromnoise.data import image_files, read_image
from fromnoise.data.labels.names import describe_labels
from fromnoise.diffusion import Step
from fromnoise.model.model import Model, from_uint8
from fromnoise.pictures import grid_figure, save_pngs

Progress = Callable[[int, int], None]
SHOWN_ROWS, SHOWN_COLUMNS = 8, 10  # images of a comparison, and results of each
MADE = np.uint8(128)  # grey in the place of what is made anew


class Given(NamedTuple):
    """Images as the model sees them, by name."""

    files: list[Path]
    names: list[str]
    images: np.ndarray  # uint8 (N, C, H, W)


class Job(NamedTuple):
    """One image to make: from which of the given ones, with which seed."""

    image: int
    seed: int


def read_given(model: Model, path: Path, out: Path) -> Given:
    """An image file, or those of a folder, brought to the model's channels and size.

    Raises FolderInUse where `out` already holds something, and DataError for a file that cannot be
    read: before anything is made or written.
    """
    require_empty_folder(out)
    spec, files = model.spec, image_files(path)
    images = [
        read_image(
            file,
            size=spec.size,
            channels=spec.channels,
            fit=spec.fit,
            background=spec.background,
        )
        for file in files.values()
    ]
    return Given(list(files.values()), list(files), np.stack(images))


def end_of(walk: Iterator[Step]) -> Tensor:
    """x_0, where it ends; the thousands of steps of a long one do not stay in memory."""
    return deque(walk, maxlen=1).pop().x


def as_x0(model: Model, images: np.ndarray) -> Tensor:
    """uint8 (B,C,H,W) → x_0, float32, on the device of the model."""
    return from_uint8(torch.tensor(images), model.spec.data_range).to(model.device)


def repeated(cond: np.ndarray | None, count: int) -> Tensor | None:
    """The same labels, int8 (K,), for each of `count` images; None where none are asked for."""
    return None if cond is None else torch.from_numpy(np.repeat(cond[None], count, axis=0))


def heading(what: str, model: Model, cond: np.ndarray | None) -> str:
    """A title that begins with the labels that were asked for."""
    if cond is None:
        return what
    words = textwrap.shorten(describe_labels(cond, model.spec.label_names), 60, placeholder=" …")
    return f"{words}: {what}"


def in_batches(jobs: Sequence[Job], size: int, progress: Progress) -> Iterator[Sequence[Job]]:
    """`size` jobs at a time; progress is called with (images finished, of how many)."""
    for i in range(0, len(jobs), size):
        batch = jobs[i : i + size]
        yield batch
        progress(i + len(batch), len(jobs))


def save_results(
    results: np.ndarray,
    folder: Path,
    given: Given,
    jobs: Sequence[Job],
    *,
    settings: Mapping[str, str],
    title: str,
    masks: np.ndarray | None = None,
) -> list[Path]:
    """Write NAME-SEED.png for each job and comparison.png: before, what stays, what was made.

    results: uint8 (len(jobs), C, H, W), the seeds of an image in a row. masks: bool (N, H, W).
    """
    names = [f"{given.names[job.image]}-{job.seed:06d}" for job in jobs]
    texts = [
        {
            **settings,
            "image": given.names[job.image],
            "seed": str(job.seed),
            "software": "fromnoise",
        }
        for job in jobs
    ]
    pngs = save_pngs(results, folder, names, texts)
    cells: list[tuple[str, np.ndarray]] = []
    each = len(jobs) // len(given.names)
    for i, name in enumerate(given.names[:SHOWN_ROWS]):
        cells.append((name, given.images[i]))
        if masks is not None:
            cells.append(("what stays", np.where(masks[i], MADE, given.images[i])))
        for j in range(i * each, i * each + min(each, SHOWN_COLUMNS)):
            cells.append((f"seed {jobs[j].seed}", results[j]))
    comparison = grid_figure(
        np.stack([image for _, image in cells]),
        folder / "comparison.png",
        title=title,
        captions=[caption for caption, _ in cells],
        columns=len(cells) // len(given.names[:SHOWN_ROWS]),
    )
    return [*pngs, comparison]
