"""Check a data set: count its images, find problems, and suggest a recipe."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fromnoise.data.cache import default_cache
from fromnoise.data.decoding.decode import Header
from fromnoise.data.decoding.parallel import map_in_order
from fromnoise.data.decoding.transforms import RGB, Fit, Picture
from fromnoise.data.errors import BrokenImage, DataError
from fromnoise.data.sources import detect_source, get_source
from fromnoise.data.sources.base import ImageReader, SourceRequest

_MAX_LINES = 10  # of a long list


@dataclass(frozen=True)
class DataReport:
    """The result of `check_data`. `str(report)` is the text that the command prints."""

    source: str
    path: str | None  # absolute
    count: int  # images, without the broken ones
    sizes: dict[tuple[int, int], int]  # (H, W) in pixels -> number of images, most common first
    modes: dict[str, int]  # Pillow's mode, or the type of an array -> number of images
    channels: int  # 1, 3, or N for arrays: the result of `channels: null`
    classes: dict[str, int]  # label -> number of images, in the order of the labels; {} without
    labels_from: str  # "labels.json", "sub-folders"; "" if the source has one place only
    unlabelled: int  # images without a known label; 0 if there are no labels at all
    duplicates: tuple[tuple[str, str], ...]  # (first, other) with equal pixels
    broken: tuple[str, ...]  # "name: reason"
    notes: tuple[str, ...]
    recipe: str  # YAML; "" if every image is broken

    def lines(self) -> list[str]:
        """Return the lines of the report. Lists are cut after ten lines, except broken images."""
        out = [f"{self.path or self.source}: {self.count:,} images (source {self.source})"]
        if self.sizes:
            out += self._size_lines()
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
        out += [f"note:      {note}" for note in self.notes]
        if self.recipe:
            out += ["", "Suggested recipe:", "", *self.recipe.splitlines()]
        return out

    def _size_lines(self) -> list[str]:
        heights, widths = zip(*self.sizes, strict=True)
        common = [f"{h}×{w} ×{count:,}" for (h, w), count in list(self.sizes.items())[:5]]
        out = [f"sizes:     {', '.join(common)} (H×W; {len(self.sizes):,} in all)"]
        if len(self.sizes) > 1:
            out.append(
                f"           H {min(heights)} to {max(heights)}, W {min(widths)} to {max(widths)}"
            )
        return out

    def __str__(self) -> str:
        return "\n".join(self.lines())


def check_data(
    path: str | Path | None = None,
    *,
    source: str | None = None,
    split: str = "train",
    background: RGB = (255, 255, 255),
    cache: str | Path | None = None,
    download: bool = True,
    progress: Callable[[int, int], None] | None = None,
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
    cache = Path(cache).expanduser() if cache is not None else default_cache()
    request = SourceRequest(
        root, split=split, background=background, cache=cache, download=download
    )
    with get_source(source)(request).open() as reader:
        facts: list[_Facts | str] = []
        total = len(reader.names)
        for fact in map_in_order(lambda i: _examine(reader, i), total):
            facts.append(fact)
            if progress is not None:
                progress(len(facts), total)
        return _report(source, root, reader, facts, background)


@dataclass(frozen=True)
class _Facts:
    header: Header
    digest: bytes  # of the pixels
    grey: bool  # all channels are equal
    dark: bool  # the mean of the border is below half


def _examine(reader: ImageReader, i: int) -> _Facts | str:
    try:
        picture, header = reader.read_image(i), reader.read_header(i)
    except BrokenImage as error:
        return f"{reader.names[i]}: {error}"
    return _Facts(header, _digest(picture), _is_grey(picture), _is_dark(picture))


def _digest(picture: Picture) -> bytes:
    pixels = picture.pixels
    kind = f"{pixels.shape} {pixels.dtype}".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(pixels).tobytes()).digest()


def _is_grey(picture: Picture) -> bool:
    first = picture.pixels[..., :1]
    return picture.pixels.shape[2] in (1, 3) and bool((picture.pixels == first).all())


def _is_dark(picture: Picture) -> bool:
    p = picture.pixels
    border = [p[0], p[-1], p[:, 0], p[:, -1]]
    return float(np.mean([side.mean() for side in border])) < picture.peak / 2


def _report(
    source: str,
    root: Path | None,
    reader: ImageReader,
    facts: list[_Facts | str],
    background: RGB,
) -> DataReport:
    good = [(i, fact) for i, fact in enumerate(facts) if isinstance(fact, _Facts)]
    headers = [fact.header for _, fact in good]
    sizes = Counter((header.height, header.width) for header in headers)
    channels = max((header.channels_on(background) for header in headers), default=0)
    classes, unlabelled = {}, 0
    if reader.labels is not None:
        labels = reader.labels[[i for i, _ in good]]
        present = (labels == 1).sum(axis=0)
        classes = {name: int(n) for name, n in zip(reader.label_names, present, strict=True)}
        unlabelled = int((labels == 0).all(axis=1).sum())
    all_grey = channels == 3 and all(fact.grey for _, fact in good)
    return DataReport(
        source=source,
        path=str(root) if root is not None else None,
        count=len(good),
        sizes=dict(sizes.most_common()),
        modes=dict(Counter(header.mode for header in headers).most_common()),
        channels=channels,
        classes=classes,
        labels_from=reader.labels_from,
        unlabelled=unlabelled,
        duplicates=_duplicates([(reader.names[i], fact.digest) for i, fact in good]),
        broken=tuple(fact for fact in facts if isinstance(fact, str)),
        notes=tuple(_notes(headers, all_grey)),
        recipe=recipe_lines(
            source=source,
            path=str(root) if root is not None else None,
            sizes=sizes,
            channels=1 if all_grey else channels,
            dark=sum(fact.dark for _, fact in good) * 2 > len(good),
            labels=bool(classes),
        ),
    )


def _duplicates(images: list[tuple[str, bytes]]) -> tuple[tuple[str, str], ...]:
    first: dict[bytes, str] = {}
    pairs = []
    for name, digest in images:
        if (other := first.setdefault(digest, name)) != name:
            pairs.append((other, name))
    return tuple(pairs)


def _notes(headers: list[Header], all_grey: bool) -> list[str]:
    total = f"of {len(headers):,} images"
    rotated, alpha, deep = (
        sum(getattr(header, flag) for header in headers) for flag in ("rotated", "alpha", "deep")
    )
    notes = []
    if rotated:
        notes.append(f"{rotated:,} {total} are rotated by EXIF. The rotation is applied")
    if alpha:
        notes.append(f"{alpha:,} {total} are transparent. data.background shows through")
    if deep:
        notes.append(f"{deep:,} {total} have more than 8 bits. They are rounded after the resizing")
    if all_grey:
        notes.append("every colour image is grey. Use channels: 1")
    return notes


def _cut(lines: list[str]) -> list[str]:
    more = [f"  … and {len(lines) - _MAX_LINES:,} more"] if len(lines) > _MAX_LINES else []
    return lines[:_MAX_LINES] + more


_SIDES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_MAX_PADDING = 4  # pixels


def recipe_lines(
    *,
    source: str,
    path: str | None,
    sizes: Mapping[tuple[int, int], int],
    channels: int,
    dark: bool,
    labels: bool,
) -> str:
    """Return the YAML of a recipe's data section, or "" without images.

    sizes: (H, W) -> number of images. dark: most borders are closer to black than to white.
    labels: train on labels.
    """
    if not sizes:
        return ""
    (height, width), fit = suggest_size(sizes)
    lines = ["data:", f"  source: {source}"]
    if path is not None:
        lines.append(f"  path: {_yaml_text(path)}")
    lines.append(f"  size: {height}" if height == width else f"  size: [{height}, {width}]")
    lines += [f"  channels: {channels}", f"  fit: {fit}"]
    if fit == "pad":
        lines.append(f"  background: {[0, 0, 0] if dark else [255, 255, 255]}")
    if labels:
        lines.append("  labels: true")
    return "\n".join(lines)


def suggest_size(sizes: Mapping[tuple[int, int], int]) -> tuple[tuple[int, int], Fit]:
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


def _yaml_text(text: str) -> str:
    """Return the text, quoted (JSON is YAML) unless YAML reads it unchanged."""
    return text if re.fullmatch(r"/[\w./+-]*", text) else json.dumps(text, ensure_ascii=False)
