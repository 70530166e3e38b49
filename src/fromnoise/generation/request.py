"""A request for generated images, of any command, and the folder of its images."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fromnoise.config.schema import SamplingConfig
from fromnoise.generation.conditioning import Conditioning
from fromnoise.model.model import Model, to_uint8
from fromnoise.pictures import grid_figure, save_pngs
from fromnoise.progress import progress_bar


class Request(NamedTuple):
    """A model, how to sample from it, and a folder for the images.

    conditioning: a row per image for samples; one row, for all images, for edits.
    """

    model: Model
    config: SamplingConfig
    folder: Path
    conditioning: Conditioning = Conditioning()
    batch_size: int = 64

    def write(
        self, batches: Iterable[Tensor], names: Sequence[str], metadata: Sequence[Mapping[str, str]]
    ) -> tuple[list[Path], np.ndarray]:
        """Write each batch of x_0, (B,C,H,W), when it is there: NAME.png with metadata.

        Returns the files and all images, uint8 (N,C,H,W).
        """
        files: list[Path] = []
        images: list[np.ndarray] = []
        with progress_bar("images") as progress:
            for x in batches:
                rows = slice(len(files), len(files) + len(x))
                images.append(to_uint8(x, self.model.spec.data_range).numpy())
                files += save_pngs(images[-1], self.folder, names[rows], metadata[rows])
                progress(len(files), len(names))
        return files, np.concatenate(images)

    def compare(self, cells: Iterable[tuple[str, np.ndarray]], columns: int, title: str) -> Path:
        """Write comparison.png of captions and images, under the labels of an edit and a title."""
        captions, images = zip(*cells, strict=True)
        title = heading(title, self.conditioning.captions(self.model.spec.label_names, 1))
        path, images = self.folder / "comparison.png", np.stack(images)
        return grid_figure(images, path, title=title, captions=captions, columns=columns)


def heading(title: str, captions: Sequence[str]) -> str:
    """Return a title that begins with the caption of the images, if all have the same one."""
    if len(set(captions)) > 1 or not captions[0]:
        return title
    return f"{textwrap.shorten(captions[0], 60, placeholder=' …')}: {title}"
