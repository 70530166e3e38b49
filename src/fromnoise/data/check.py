"""`check_data`: what is in a data set, what is wrong with it, and the recipe lines that fit."""

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
from fromnoise.data.decoding.parallel import in_order
from fromnoise.data.decoding.transforms import RGB, Fit, Picture
from fromnoise.data.errors import BrokenImage, DataError
from fromnoise.data.sources import detect_source, find_source
from fromnoise.data.sources.base import Pictures, Request

_LISTED = 10  # lines for anything of which there may be thousands


@dataclass(frozen=True)
class Report:
    """What `check_data` found; `str(report)` is for people."""

    source: str
    path: str | None  # absolute
    count: int  # images that can be read
    sizes: dict[tuple[int, int], int]  # (H, W) in pixels -> images, the commonest first
    modes: dict[str, int]  # Pillow's mode or an array's type -> images
    channels: int  # 1, 3, or N for arrays: what `channels: null` would give
    classes: dict[str, int]  # label -> images that have it, in stored order; {} without labels
    labels_from: str  # "labels.json", "sub-folders"; "" where a source has one place only
    unlabelled: int  # images of which no label is said; 0 without labels
    duplicates: tuple[tuple[str, str], ...]  # (first, other) with the same pixels
    broken: tuple[str, ...]  # "name: reason"
    notes: tuple[str, ...]
    recipe: str  # YAML, "" where no image can be read

    def lines(self) -> list[str]:
        """The report line by line; lists are cut at ten."""
        out = [f"{self.path or self.source}: {self.count:,} images (source {self.source})"]
        if self.sizes:
            out += self._size_lines()
            modes = ", ".join(f"{mode} ×{count:,}" for mode, count in self.modes.items())
            out += [f"modes:     {modes}", f"channels:  {self.channels}"]
        if self.classes:
            place = f", from {self.labels_from}" if self.labels_from else ""
            out.append(f"labels:    {len(self.classes)}{place}")
            out += _cut([f"  {name}: {count:,}" for name, count in self.classes.items()])
        if self.unlabelled:
            out.append(f"no label:  {self.unlabelled:,} images")
        if self.duplicates:
            out.append(f"exact duplicates: {len(self.duplicates):,}")
            out += _cut([f"  {other} = {first}" for first, other in self.duplicates])
        if self.broken:
            out.append(f"cannot be read: {len(self.broken):,}")
            out += [f"  {line}" for line in self.broken]  # all of them: they want mending
        out += [f"note:      {note}" for note in self.notes]
        if self.recipe:
            out += ["", "A recipe that fits:", "", *self.recipe.splitlines()]
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
) -> Report:
    """Reads every image once, keeps none of them, and says what there is.

    `source` is detected from the path unless it is given; the other options are those of
    `open_images`. Raises `DataError` where there is nothing to look at; files that cannot be read
    are part of the report.
    """
    if source is None:
        if path is None:
            raise DataError("data.path is missing: name a folder, a file or a source")
        source = detect_source(path)
    root = Path(path).expanduser().absolute() if path is not None else None
    cache = Path(cache).expanduser() if cache is not None else default_cache()
    request = Request(root, split=split, background=background, cache=cache, download=download)
    with find_source(source)(request).open() as pictures:
        facts: list[_Facts | str] = []
        total = len(pictures.names)
        for fact in in_order(lambda i: _examine(pictures, i), total):
            facts.append(fact)
            if progress is not None:
                progress(len(facts), total)
        return _report(source, root, pictures, facts, background)


@dataclass(frozen=True)
class _Facts:
    header: Header
    digest: bytes  # of the pixels
    grey: bool  # grey, whatever the mode says
    dark: bool  # a border darker than half


def _examine(pictures: Pictures, i: int) -> _Facts | str:
    try:
        picture, header = pictures.read(i), pictures.look(i)
    except BrokenImage as error:
        return f"{pictures.names[i]}: {error}"
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
    pictures: Pictures,
    facts: list[_Facts | str],
    background: RGB,
) -> Report:
    good = [(i, fact) for i, fact in enumerate(facts) if isinstance(fact, _Facts)]
    headers = [fact.header for _, fact in good]
    sizes = Counter((header.height, header.width) for header in headers)
    channels = max((header.channels_on(background) for header in headers), default=0)
    classes, unlabelled = {}, 0
    if pictures.labels is not None:
        labels = pictures.labels[[i for i, _ in good]]
        present = (labels == 1).sum(axis=0)
        classes = {name: int(n) for name, n in zip(pictures.label_names, present, strict=True)}
        unlabelled = int((labels == 0).all(axis=1).sum())
    all_grey = channels == 3 and all(fact.grey for _, fact in good)
    return Report(
        source=source,
        path=str(root) if root is not None else None,
        count=len(good),
        sizes=dict(sizes.most_common()),
        modes=dict(Counter(header.mode for header in headers).most_common()),
        channels=channels,
        classes=classes,
        labels_from=pictures.labels_from,
        unlabelled=unlabelled,
        duplicates=_duplicates([(pictures.names[i], fact.digest) for i, fact in good]),
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
        notes.append(f"{rotated:,} {total} are turned as their EXIF says")
    if alpha:
        notes.append(f"{alpha:,} {total} have transparency; data.background shows through it")
    if deep:
        notes.append(f"{deep:,} {total} have more than 8 bits, which are kept until the last step")
    if all_grey:
        notes.append("every colour image is grey; channels: 1 loses nothing")
    return notes


def _cut(lines: list[str]) -> list[str]:
    more = [f"  … and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
    return lines[:_LISTED] + more


_USUAL = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_MOST_PADDING = 4  # pixels


def recipe_lines(
    *,
    source: str,
    path: str | None,
    sizes: Mapping[tuple[int, int], int],
    channels: int,
    dark: bool,
    labels: bool,
) -> str:
    """YAML for `sizes`, (H, W) -> images; `dark` says that most borders are nearer to black.

    labels: whether there are any, for then they are trained on too.
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
    """(H, W), both divisible by 8, and how the images come to it without being enlarged.

    One size that all share is kept, or padded where 8 is at most 4 pixels away. Otherwise it is
    the largest usual square within the median of the shorter sides.
    """
    if len(sizes) == 1:
        (height, width) = next(iter(sizes))
        padded = -(-height // 8) * 8, -(-width // 8) * 8
        added = max(padded[0] - height, padded[1] - width)
        if max(height, width) <= _USUAL[-1] and added <= _MOST_PADDING:
            return padded, "pad" if added else "crop"
    shorter = np.repeat([min(size) for size in sizes], list(sizes.values()))
    median = float(np.median(shorter))
    side = max((usual for usual in _USUAL if usual <= median), default=_USUAL[0])
    return (side, side), "crop"


def _yaml_text(text: str) -> str:
    """The text as it is where YAML reads it as itself, else quoted (JSON is YAML)."""
    return text if re.fullmatch(r"/[\w./+-]*", text) else json.dumps(text, ensure_ascii=False)
