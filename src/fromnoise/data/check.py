"""Check a data set: count its images, find problems, and suggest a recipe."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from fromnoise.data.dataset import default_cache
from fromnoise.data.decoding.decode import RGB, Fit, Header
from fromnoise.data.decoding.remarks import FRAMES, frames_and_warnings
from fromnoise.data.errors import DataError
from fromnoise.data.levels import DEEPEST
from fromnoise.data.sources import detect_source, get_source
from fromnoise.data.sources.base import ImageReader, Progress, SourceRequest, read_each
from fromnoise.progress import printable

Sizes = Mapping[tuple[int, int], int]  # (H, W) in pixels -> number of images

_MAX_LINES = 10  # of a long list
_SAMPLED = 200  # images of `typical_side`
_SIDES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_MAX_PADDING = 4  # pixels
_NOTES = {  # on the images with these fields of `Header`
    "rotated": "are rotated by EXIF. The rotation is applied.",
    "alpha": "are transparent. data.background shows through.",
    "deep": "have more than 8 bits. They are rounded, or data.depth keeps them.",
    "profile": "have an ICC profile. They are converted to sRGB.",
}


@dataclass(frozen=True)
class DataReport:
    """The result of `check_data`. `str(report)` is the text that the command prints."""

    source: str
    path: str | None  # absolute
    count: int  # images, without the broken ones
    sizes: Sizes  # most common first
    modes: dict[str, int]  # Pillow's mode, or the type of an array -> number of images
    channels: int  # 1, 3, or N for arrays: the result of `channels: null`
    classes: dict[str, int]  # label -> number of images, in the order of the labels; {} without
    labels_from: str  # "labels.json", "sub-folders"; "" if the source has one place only
    unlabelled: int  # images without a known label; 0 if there are no labels at all
    duplicates: tuple[tuple[str, str], ...]  # (first, other) with equal pixels
    broken: tuple[str, ...]  # "name: reason"
    warned: tuple[str, ...]  # "name: warnings" of files that were read
    notes: tuple[str, ...]
    recipe: str  # YAML; "" if every image is broken

    def __str__(self) -> str:
        """Return the report. Lists are cut after ten lines, except broken images."""
        out = [f"{self.path or self.source}: {self.count:,} images (source {self.source})"]
        if self.sizes:
            heights, widths = zip(*self.sizes, strict=True)
            common = [f"{h}×{w} ×{count:,}" for (h, w), count in list(self.sizes.items())[:5]]
            out.append(f"sizes:     {', '.join(common)} (H×W; {len(self.sizes):,} in all)")
            if len(self.sizes) > 1:
                ranges = f"H {min(heights)} to {max(heights)}, W {min(widths)} to {max(widths)}"
                out.append(f"           {ranges}")
            modes = ", ".join(f"{mode} ×{count:,}" for mode, count in self.modes.items())
            out += [f"modes:     {modes}", f"channels:  {self.channels}"]
        if self.classes:
            origin = f", from {self.labels_from}" if self.labels_from else ""
            out.append(f"labels:    {len(self.classes)}{origin}")
            out += _cut([f"  {name}: {count:,}" for name, count in self.classes.items()])
        if self.unlabelled:
            out.append(f"no labels: {self.unlabelled:,} images")
        if self.duplicates:
            out.append(f"exact duplicates: {len(self.duplicates):,}")
            out += _cut([f"  {other} = {first}" for first, other in self.duplicates])
        if self.broken:
            out.append(f"cannot be read: {len(self.broken):,}")
            out += [f"  {line}" for line in self.broken]  # all of them, to be repaired
        if self.warned:
            out.append(f"read with warnings: {len(self.warned):,}")
            out += _cut([f"  {line}" for line in self.warned])
        out += [f"note:      {note}" for note in self.notes]
        if self.recipe:
            out += ["", "Suggested recipe:", "", *self.recipe.splitlines()]
        return "\n".join(map(printable, out))


def check_data(
    path: str | Path | None = None,
    *,
    source: str | None = None,
    split: str = "train",
    background: RGB = (255, 255, 255),
    cache: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> DataReport:
    """Read every image once and report the contents and problems of a data set. Stores nothing.

    By default, `source` is detected from the path. The other options are those of `open_images`.
    Raises `DataError` if the source cannot be opened. Broken images are part of the report.
    """
    if source is None:
        if path is None:
            raise DataError("data.path is missing. Give a folder, a file or a source.")
        source = detect_source(path)
    root = Path(path).expanduser().absolute() if path is not None else None
    where = None if root is None else str(root)
    cache = Path(cache).expanduser() if cache is not None else default_cache()
    request = SourceRequest(root, split, background, cache, download)
    listing = get_source(source)(request)
    with closing(listing.open()) as reader:
        facts = list(read_each(reader, partial(_examine, reader), progress))
    good = [fact for fact in facts if not isinstance(fact, str)]
    headers = [fact.header for fact in good]
    classes, unlabelled, differ = {}, 0, False
    if reader.labels is not None:
        labels = reader.labels[[fact.index for fact in good]]
        present = (labels == 1).sum(axis=0).tolist()
        classes = dict(zip(reader.label_names, present, strict=True))
        unlabelled = int((labels == 0).all(axis=1).sum())
        differ = bool((labels != 1).any())
    first: dict[bytes, str] = {}
    names = [reader.names[fact.index] for fact in good]
    pairs = [(first.setdefault(f.digest, name), name) for f, name in zip(good, names, strict=True)]
    channels = max((header.channels_on(background) for header in headers), default=0)
    all_grey = channels == 3 and all(fact.grey for fact in good)
    notes = [
        f"{count:,} of {len(good):,} images {note}"
        for flag, note in _NOTES.items()
        if (count := sum(getattr(header, flag) for header in headers))
    ]
    notes += ["every colour image is grey. Use channels: 1."] * all_grey
    more, warned = frames_and_warnings(reader.remarks)
    notes += [f"{len(more):,} of {len(good):,} images: {FRAMES}."] * bool(more)
    white = suggest_white([fact.highest for fact in good if fact.highest is not None])
    if white is not None:
        notes.append(
            f"no value of the 16-bit images is above {white:,}, so they look nearly black. Set "
            f"data.white={white}, if that is their white."
        )
    sizes = Counter((header.height, header.width) for header in headers)
    recipe = ""
    if sizes:
        (height, width), fit = suggest_size(sizes)
        dark = sum(fact.dark for fact in good) * 2 > len(good)
        data = {
            "source": source,
            "path": where,
            "size": height if height == width else [height, width],
            "channels": 1 if all_grey else channels,
            "fit": fit,
            "white": white,
            "background": [0 if dark else 255] * 3 if fit == "pad" else None,
            "labels": True if differ else None,
        }
        keys = [f"  {key}: {_yaml(value)}" for key, value in data.items() if value is not None]
        recipe = "\n".join(["data:", *keys])
    return DataReport(
        source=source,
        path=where,
        count=len(good),
        sizes=dict(sizes.most_common()),
        modes=dict(Counter(header.mode for header in headers).most_common()),
        channels=channels,
        classes=classes,
        labels_from=reader.labels_from,
        unlabelled=unlabelled,
        duplicates=tuple((one, other) for one, other in pairs if one != other),
        broken=tuple(fact for fact in facts if isinstance(fact, str)),
        warned=tuple(warned),
        notes=(*listing.notes, *reader.notes, *notes),
        recipe=recipe,
    )


class _Facts(NamedTuple):
    index: int
    header: Header
    digest: bytes  # of the pixels
    grey: bool  # all channels are equal
    dark: bool  # the mean of the border is below half
    highest: int | None  # the largest value, where 16 bits are white


def _examine(reader: ImageReader, i: int) -> _Facts:
    picture, header = reader.read_image(i), reader.read_header(i)
    p = picture.pixels
    digest = hashlib.sha256(f"{p.shape} {p.dtype} {picture.peak}".encode() + p.tobytes()).digest()
    grey = p.shape[2] in (1, 3) and bool((p == p[..., :1]).all())
    border = np.mean([side.mean() for side in (p[0], p[-1], p[:, 0], p[:, -1])])
    highest = int(p.max()) if picture.peak == DEEPEST else None
    return _Facts(i, header, digest, grey, bool(border < picture.peak / 2), highest)


def suggest_white(highest: Sequence[int]) -> int | None:
    """Return the white of 8 to 14 bits if no image of 16 bits has a larger value, else None.

    highest: the largest value of each image.
    """
    bits = max(highest, default=0).bit_length()
    return 2 ** max(bits, 8) - 1 if 0 < bits <= 14 else None


def _cut(lines: list[str]) -> list[str]:
    more = [f"  … and {len(lines) - _MAX_LINES:,} more"] if len(lines) > _MAX_LINES else []
    return lines[:_MAX_LINES] + more


def _yaml(value: object) -> str:
    """Return one line of YAML, without the end of document that follows a lone scalar."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**31)
    return text.removesuffix("...\n").rstrip()


def typical_side(source: str, path: Path, *, split: str = "train") -> int:
    """Return the side that `suggest_size` finds for at most `_SAMPLED` of the images."""
    listing = get_source(source)(SourceRequest(path, split, cache=default_cache()))
    with closing(listing.open()) as reader:
        rows = sorted({int(i) for i in np.linspace(0, len(reader.names) - 1, _SAMPLED)})
        some = replace(reader, names=[reader.names[i] for i in rows])
        headers = read_each(some, lambda i: reader.read_header(rows[i]))
        sizes = Counter((h.height, h.width) for h in headers if not isinstance(h, str))
    return min(suggest_size(sizes)[0]) if sizes else _SIDES[0]


def suggest_size(sizes: Sizes) -> tuple[tuple[int, int], Fit]:
    """Suggest (H, W), both divisible by 8, and a fit that does not enlarge the images.

    If all images have one size, it is kept, or padded by up to 4 pixels to a multiple of 8.
    Otherwise the result is the largest of some common squares up to the median shorter side.
    """
    if len(sizes) == 1:
        (height, width) = next(iter(sizes))
        padded = -(-height // 8) * 8, -(-width // 8) * 8
        added = max(padded[0] - height, padded[1] - width)
        if max(height, width) <= _SIDES[-1] and added <= _MAX_PADDING:
            return padded, "pad" if added else "crop"
    shorter = np.repeat([min(size) for size in sizes], list(sizes.values()))
    median = float(np.median(shorter))
    side = max((side for side in _SIDES if side <= median), default=_SIDES[0])
    return (side, side), "crop"
