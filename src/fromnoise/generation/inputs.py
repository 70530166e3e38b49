"""Input images of an edit, its jobs, and how its results are written."""

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
MASKED = np.uint8(128)  # grey


class InputImages(NamedTuple):
    """Images at the model's size and channels."""

    files: list[Path]
    names: list[str]
    images: np.ndarray  # uint8 (N, C, H, W)


class EditJob(NamedTuple):
    """One image to make: the index of its input image, and a seed."""

    image: int
    seed: int


def read_inputs(model: Model, path: Path, out: Path) -> InputImages:
    """Read an image file, or those of a folder, at the model's size and channels.

    Raises FolderNotEmpty if `out` is not empty, and DataError for an unreadable file.
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
    return InputImages(list(files.values()), list(files), np.stack(images))


def last_x(steps: Iterator[Step]) -> Tensor:
    """Return x of the last step, without keeping the others in memory."""
    return deque(steps, maxlen=1).pop().x


def to_x0(model: Model, images: np.ndarray) -> Tensor:
    """Return uint8 (B,C,H,W) as x_0: float32, on the device of the model."""
    return from_uint8(torch.tensor(images), model.spec.data_range).to(model.device)


def repeat_labels(cond: np.ndarray | None, count: int) -> Tensor | None:
    """Return the labels (K,) of all images as rows (count, K); None if there are none."""
    return None if cond is None else torch.from_numpy(np.repeat(cond[None], count, axis=0))


def title_with_condition(title: str, model: Model, cond: np.ndarray | None) -> str:
    """Return a title that begins with the labels of all images."""
    if cond is None:
        return title
    text = textwrap.shorten(describe_labels(cond, model.spec.label_names), 60, placeholder=" …")
    return f"{text}: {title}"


def in_batches(
    jobs: Sequence[EditJob], size: int, progress: Progress
) -> Iterator[Sequence[EditJob]]:
    """Yield `size` jobs at a time, and report (images done, of how many)."""
    for i in range(0, len(jobs), size):
        batch = jobs[i : i + size]
        yield batch
        progress(i + len(batch), len(jobs))


def save_results(
    results: np.ndarray,
    folder: Path,
    inputs: InputImages,
    jobs: Sequence[EditJob],
    *,
    settings: Mapping[str, str],
    title: str,
    masks: np.ndarray | None = None,
) -> list[Path]:
    """Write NAME-SEED.png for each job, and comparison.png: inputs, masked inputs, results.

    results: uint8 (len(jobs), C, H, W), the seeds of an image in a row. masks: bool (N, H, W).
    """
    names = [f"{inputs.names[job.image]}-{job.seed:06d}" for job in jobs]
    metadata = [
        {
            **settings,
            "image": inputs.names[job.image],
            "seed": str(job.seed),
            "software": "fromnoise",
        }
        for job in jobs
    ]
    pngs = save_pngs(results, folder, names, metadata)
    cells: list[tuple[str, np.ndarray]] = []
    each = len(jobs) // len(inputs.names)
    for i, name in enumerate(inputs.names[:SHOWN_ROWS]):
        cells.append((name, inputs.images[i]))
        if masks is not None:
            cells.append(("kept", np.where(masks[i], MASKED, inputs.images[i])))
        for j in range(i * each, i * each + min(each, SHOWN_COLUMNS)):
            cells.append((f"seed {jobs[j].seed}", results[j]))
    comparison = grid_figure(
        np.stack([image for _, image in cells]),
        folder / "comparison.png",
        title=title,
        captions=[caption for caption, _ in cells],
        columns=len(cells) // len(inputs.names[:SHOWN_ROWS]),
    )
    return [*pngs, comparison]
