"""Input images of an edit, and how its results are written."""

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
from fromnoise.model.model import Model, from_uint8, to_uint8
from fromnoise.model.precision import without_tf32
from fromnoise.pictures import grid_figure, save_pngs
from fromnoise.progress import progress_bar

SHOWN_ROWS, SHOWN_COLUMNS = 8, 10  # images of a comparison, and results of each
MASKED = np.uint8(128)  # grey


class InputImages(NamedTuple):
    """Images at the model's size and channels."""

    files: list[Path]
    names: list[str]
    images: np.ndarray  # uint8 (N, C, H, W)


def read_inputs(model: Model, path: Path, out: Path) -> InputImages:
    """Read an image file, or those of a folder, at the model's size and channels.

    Raises FolderNotEmpty if `out` is not empty, and DataError for an unreadable file.
    """
    require_empty_folder(out)
    files = image_files(path)
    how = model.spec.model_dump(include={"size", "channels", "fit", "background"})
    images = np.stack([read_image(file, **how) for file in files.values()])
    return InputImages(list(files.values()), list(files), images)


def last_x(steps: Iterator[Step]) -> Tensor:
    """Return x of the last step, without keeping the others in memory."""
    with torch.inference_mode(), without_tf32():
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


def edit_to_folder(
    model: Model,
    edit: Callable[[list[int], list[int]], Tensor],
    inputs: InputImages,
    seeds: Sequence[int],
    folder: Path,
    *,
    settings: Mapping[str, object],
    title: str,
    batch_size: int,
    masks: np.ndarray | None = None,
) -> list[Path]:
    """Edit each image with each seed: NAME-SEED.png, and comparison.png beside them.

    edit: indices of images, and a seed for each → x_0 (N,C,H,W); `batch_size` at a time. settings:
    for the metadata. masks: bool (N, H, W), for the comparison, which shows inputs and results.
    """
    jobs = [(i, seed) for i in range(len(inputs.names)) for seed in seeds]
    results: list[np.ndarray] = []
    with progress_bar("images") as progress:
        for start in range(0, len(jobs), batch_size):
            rows, of_rows = map(list, zip(*jobs[start : start + batch_size], strict=True))
            results.extend(to_uint8(edit(rows, of_rows), model.spec.data_range).numpy())
            progress(len(results), len(jobs))
    names = [f"{inputs.names[i]}-{seed:06d}" for i, seed in jobs]
    said = {key: str(value) for key, value in settings.items()} | {"software": "fromnoise"}
    metadata = [{**said, "image": inputs.names[i], "seed": str(seed)} for i, seed in jobs]
    pngs = save_pngs(np.stack(results), folder, names, metadata)
    cells: list[tuple[str, np.ndarray]] = []
    for i, name in enumerate(inputs.names[:SHOWN_ROWS]):
        cells.append((name, inputs.images[i]))
        if masks is not None:
            cells.append(("kept", np.where(masks[i], MASKED, inputs.images[i])))
        of_image = results[i * len(seeds) :]
        cells += [(f"seed {s}", x) for s, x in zip(seeds[:SHOWN_COLUMNS], of_image, strict=False)]
    comparison = grid_figure(
        np.stack([image for _, image in cells]),
        folder / "comparison.png",
        title=title,
        captions=[caption for caption, _ in cells],
        columns=len(cells) // len(inputs.names[:SHOWN_ROWS]),
    )
    return [*pngs, comparison]
