"""Sources `folder`, `zip` and `iclevr`: image files in natural order, with their labels.

A label file is used if it is in the folder that contains all images, or in a folder above. Images
that it does not name have no known labels (0). A missing file that it names is a broken image.

Without a label file, sub-folders are classes: the first folder of each path below the folder that
contains all images. An image outside the class folders has no known class (0). If one folder
contains all images directly, it is the only class, unless a zip only wraps its content in it
(`photos/` in `photos.zip`). If no image is in a sub-folder, there are no labels.

Where there are several, all named as `SPLITS` (`train/`, `val/`, `test/`), they are splits, not
classes: `data.split` selects one, and the classes are the folders below. Names are compared in NFC.

Source `iclevr` reads several labels for each image, in the layout of i-CLEVR:

    objects.json                {name: id}, ids 0..K−1
    train.json                  {file name: [names]}
    test.json, new_test.json    conditions to sample for; see `read_conditions`
    iclevr/                     the images, or any other folder inside the root, or the root itself
"""

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from fromnoise.data.decoding.decode import ACCEPTED, EXTENSIONS, count_types, left_out
from fromnoise.data.errors import DataError, NoSplit, abbreviate, unreadable
from fromnoise.data.labels import (
    LABEL_FILES,
    label_name,
    lists_of_names,
    one_hot,
    suggest_labels,
    unique_names,
)
from fromnoise.data.sources import base
from fromnoise.data.text import (
    composed,
    decode_utf8,
    natural_key,
    open_regular,
    read_json,
    with_slashes,
)
from fromnoise.progress import printable

OBJECTS, TRAIN = "objects.json", "train.json"
SPLITS = {  # the names of folders, in any case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_INSTEAD = {"test": "val"}  # is read where the first has no folder
_USUAL_FOLDERS = ("iclevr", "images", "")


def folder(request: base.SourceRequest) -> base.SourceListing:
    """Open every image below a folder. Links are followed; hidden files and `__MACOSX` are not."""
    root = base.require_path(request, "folder", splits=True, folder=True)
    stats = dict(_walk(root))
    if request.only is not None:
        stats = {name: stats[name] for name in request.only if name in stats}
    files = _choose(stats, root, request)
    notes, files = files.notes, files._replace(notes=())

    def open_reader() -> base.ImageReader:
        size = sum(stats[name].st_size for name in files.every)
        return _reader(files, lambda name: open_regular(root / name), root, request, size)

    named = [*files.images, files.label_file] if files.label_file else files.images
    stamp = [[name, stats[name].st_size, stats[name].st_mtime_ns] for name in named]
    others = sorted(set(files.every) - set(files.images))  # they may have more classes
    return base.SourceListing([stamp, others], open_reader, notes)


def zip_file(request: base.SourceRequest) -> base.SourceListing:
    """Open every image in a zip archive, as in a folder. The archive is never unpacked."""
    path = base.require_path(request, "zip", splits=True)

    def open_reader() -> base.ImageReader:
        with ExitStack() as stack:
            # any exception, as for an image
            with unreadable(f"data.path: {path} cannot be read as a zip archive", Exception):
                archive = stack.enter_context(zipfile.ZipFile(path))
            infos, size = archive.infolist(), path.stat().st_size
            names = with_slashes([info.filename for info in infos])
            files = [
                (str(PurePosixPath(name.lstrip("/"))), info)
                for name, info in zip(names, infos, strict=True)
                if not name.endswith("/")
            ]
            members = dict(files)

            def open_member(name: str) -> IO[bytes]:
                # a small archive may unpack to any size: four bytes for each pixel suffice
                if members[name].file_size > max(size, 4 * base.largest_image()):
                    raise OSError(f"it unpacks to {members[name].file_size:,} bytes")
                return archive.open(members[name])

            reader = _reader(_choose(members, path, request), open_member, path, request, size)
            twice = len(files) - len(members)
            note = f"{path.name} has {twice:,} repeated file names: the last of each is read."
            notes = (*reader.notes, *[printable(note)] * bool(twice))
            return replace(reader, notes=notes, close=stack.pop_all().close)

    return base.SourceListing(base.stat_stamp(path), open_reader)


def folder_labels(
    names: Sequence[str], *, wrapper: str = ""
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return labels int8 (N, K) and the K class names of relative file names, by sub-folder.

    wrapper: the name of a folder that is no class.
    """
    shared = _shared_folder(names)
    classes = [_first_folder(name, len(shared)) for name in names]
    only = shared[-1] if shared else ""
    if not any(classes) and only.casefold() not in (*SPLITS, wrapper.casefold()):
        classes = [only] * len(names)
    classes = list(map(label_name, classes))
    label_names = tuple(sorted(set(classes) - {""}, key=natural_key))
    if not label_names:
        return None, ()
    number = {name: i for i, name in enumerate(label_names)} | {"": -1}
    return one_hot(np.array([number[name] for name in classes]), len(label_names)), label_names


class _Files(NamedTuple):
    """The files of a source, by their relative names."""

    images: list[str]  # in natural order
    every: list[str]  # also those of the other splits
    below: int  # the depth of the folders below the splits; 0 if there are none
    label_file: str | None
    notes: tuple[str, ...]


def _choose(files: Collection[str], where: Path, request: base.SourceRequest) -> _Files:
    """Return the images of the split among these relative names, and their label file."""

    def hidden(step: str) -> bool:
        return step.startswith(".") or step == "__MACOSX"

    visible = [name for name in files if not any(map(hidden, PurePosixPath(name).parts))]
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not images:
        others = f"only {count_types(visible)}" if visible else "and no other files"
        raise DataError(f"data.path: {where} has no images, {others}. {ACCEPTED}")
    every = sorted(images, key=natural_key)
    images, below, notes = _of_split(every, where, request)
    shared = _shared_folder(images)
    folders = [PurePosixPath(*shared[:depth]) for depth in range(len(shared) + 1)]
    names = [str(folder / name) for folder in folders for name in LABEL_FILES]
    label_files = [name for name in names if name in files]
    if len(label_files) > 1:
        raise DataError(
            f"data.path: {where} has several label files: {' and '.join(label_files)}. Keep one."
        )
    label_file = label_files[0] if label_files else None
    notes += left_out(set(visible) - {*every, label_file})
    return _Files(images, every, below, label_file, notes)


def _of_split(
    images: list[str], where: Path, request: base.SourceRequest
) -> tuple[list[str], int, tuple[str, ...]]:
    """Return the images of the split, the depth of the folders below, and a note on the others."""
    depth = len(_shared_folder(images))
    folders = [_first_folder(name, depth) for name in images]
    counts = Counter(filter(None, folders))
    if len(counts) < 2 or not all(folder.casefold() in SPLITS for folder in counts):
        base.require_train_split(request, "folder" if where.is_dir() else "zip")
        return images, 0, ()
    beside = len(images) - counts.total()
    split_of = {folder: SPLITS[folder.casefold()] for folder in counts}
    found = ", ".join(f"{folder}/ ({count:,} images)" for folder, count in counts.items())
    found += f" and {beside:,} images beside them" if beside else ""
    wanted = request.split
    if wanted not in split_of.values():
        wanted = _INSTEAD.get(wanted, wanted)
    chosen = [folder for folder in counts if split_of[folder] == wanted]
    if not chosen:
        raise NoSplit(
            f"data.split is {request.split!r}, but {where} has {found}. Set data.path to one of "
            "these folders."
        )
    read = " and ".join(f"{folder}/" for folder in chosen)
    note = f"{where.name} has the splits {found}: data.split={request.split} reads {read} only."
    kept = [name for name, folder in zip(images, folders, strict=True) if folder in chosen]
    return kept, depth + 1, (printable(note),) if len(kept) < len(images) else ()


def _reader(
    files: _Files,
    open_file: Callable[[str], IO[bytes]],
    where: Path,
    request: base.SourceRequest,
    size: int,
) -> base.ImageReader:
    """Return a reader of the images, then of the missing files that the label file names.

    size: of the archive, or of all images, in bytes: a larger label file is an error.
    """
    images, every, _, label_file, notes = files
    names, path = images, PurePosixPath(label_file or "")
    labels, label_names = (None, ()) if label_file else _labels_below(files, where)
    if label_file:
        place, limit = f"data.path: {where / label_file}", max(base.SMALL, size)
        # any exception, as for an image
        with unreadable(f"{place} cannot be read", Exception), open_file(label_file) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise DataError(
                f"{place} has more than {limit:,} bytes, which is more than the images. Give a "
                "file of labels only."
            )
        rows, label_names = LABEL_FILES[path.name](decode_utf8(content, where=place), where=place)
        labels_of: dict[str, np.ndarray] = {}
        for file, row in zip(_spelled(list(rows), every), rows.values(), strict=True):
            name = composed(str(path.parent / file))
            if name in labels_of:  # "./a.png" and "a.png" are one file
                raise DataError(f"{place} has the file {name!r} twice. Remove one of them.")
            labels_of[name] = row
        missing = labels_of.keys() - set(map(composed, every))
        if rows and len(missing) == len(labels_of):
            relative = [str(PurePosixPath(name).relative_to(path.parent)) for name in images]
            raise DataError(
                f"{place}: none of the {len(rows)} files that it names exists "
                f"({abbreviate(list(rows))}). Name the images by their paths from its folder: "
                f"{abbreviate(relative)}."
            )
        names = [*images, *(name for name in labels_of if name in missing)]
        if rows:
            unknown = np.zeros(len(label_names), dtype=np.int8)
            labels = np.stack([labels_of.get(composed(name), unknown) for name in names])
    return base.file_reader(
        names,
        open_file,
        found=set(images),
        missing=f"named in {path.name}, but not among the images of {where.name}",
        background=request.background,
        depth=request.depth,
        labels=(labels, label_names),
        labels_from=label_file or "sub-folders",
        notes=notes,
    )


def _labels_below(files: _Files, where: Path) -> base.Labels:
    """Return the labels of the images by folder. The folders of all splits are classes."""
    parts = [PurePosixPath(*PurePosixPath(name).parts[files.below :]) for name in files.every]
    labels, names = folder_labels(list(map(str, parts)), wrapper=where.stem)
    if labels is None:
        return None, ()
    chosen = set(files.images)
    labels = labels[[name in chosen for name in files.every]]
    return (labels, names) if labels.any() else (None, ())


def _spelled(names: list[str], images: Sequence[str]) -> list[str]:
    r"""Return paths of a label file with "/", also if Windows wrote "\"."""
    return names if any("\\" in name for name in images) else with_slashes(names)


def _first_folder(name: str, depth: int) -> str:
    """Return the folder of a path at this depth, or "" if the file itself is there."""
    return "".join(PurePosixPath(name).parts[depth:-1][:1])


def _shared_folder(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of the path to the folder that contains all of these files."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # any prefix they share, all share
    return tuple(step for step, _ in takewhile(lambda steps: steps[0] == steps[1], ends))


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative name, separated by "/", and the stat of every file."""
    visited: set[str] = set()  # a link to a parent folder would never end

    def refuse(error: OSError) -> None:
        raise DataError(
            f"data.path: {error.filename} cannot be read: {error.strerror}. Allow it, or move the "
            "folder away."
        ) from error

    for folder_path, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder_path)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        for file in files:
            path = Path(folder_path, file)
            name = path.relative_to(root).as_posix()
            try:
                yield name, path.stat()
            except OSError:  # a broken link is kept, and reported as a broken image
                yield name, path.lstat()


def iclevr(request: base.SourceRequest) -> base.SourceListing:
    """Open the images in train.json: +1 for the objects that it lists, −1 for all others.

    A missing file counts as a broken image.
    """
    root = base.require_path(request, "iclevr", splits=True, folder=True)
    if request.split != "train":
        raise NoSplit(
            f"data.split is {request.split!r}, but test.json and new_test.json of i-CLEVR have "
            "only conditions and no images. Leave it at 'train'."
        )
    if not has_iclevr(root):
        raise DataError(f"data.path: {root} lacks {OBJECTS} or {TRAIN}. Add the missing file.")
    label_names = read_objects(root / OBJECTS)
    where = f"data.path: {root / TRAIN}"
    named = lists_of_names(read_json(root / TRAIN, where=where), where=where)
    for file, present in named.items():
        if not present:
            raise DataError(f"{where}: {file!r} has no names. Add at least one.")
        for name in map(label_name, present):
            if name not in label_names:
                hint = suggest_labels(name, label_names)
                raise DataError(f"{where}: {file!r}: there is no label {name!r}. {hint}")
    names = list(named)
    sets = [set(map(label_name, present)) for present in named.values()]
    signs = [[1 if name in present else -1 for name in label_names] for present in sets]
    labels = np.array(signs, dtype=np.int8)
    folder = _image_folder(root, names)
    on_disk = {composed(entry.name): entry.name for entry in os.scandir(folder) if entry.is_file()}
    found = {name: folder / on_disk[composed(name)] for name in names if composed(name) in on_disk}

    def open_reader() -> base.ImageReader:
        return base.file_reader(
            names,
            lambda name: open_regular(found[name]),
            found=found,
            missing=f"named in {TRAIN}, but not in {folder.name}/",
            background=request.background,
            depth=request.depth,
            labels=(labels, label_names),
        )

    images = [base.stat_stamp(found[name]) if name in found else [name] for name in names]
    files = [base.stat_stamp(root / name) for name in (OBJECTS, TRAIN)]
    return base.SourceListing([files, folder.relative_to(root).as_posix(), images], open_reader)


def has_iclevr(folder: Path) -> bool:
    """Return whether a folder contains objects.json and train.json."""
    return all((folder / name).is_file() for name in (OBJECTS, TRAIN))


def read_objects(path: Path, *, where: str = "data.path") -> tuple[str, ...]:
    """Read the names in an objects.json, in the order of their ids.

    where: the beginning of error messages. Raises `DataError` unless it has the ids 0..K−1 once.
    """
    ids = read_json(path, where=f"{where}: {path}")
    if isinstance(ids, dict):
        ids = dict(zip(unique_names(ids, where=f"{where}: {path}"), ids.values(), strict=True))
    if not isinstance(ids, dict) or not ids or not all(type(i) is int for i in ids.values()):
        raise DataError(f'{where}: {path} is invalid. Write {{"name": id, …}} with whole numbers.')
    counts = Counter(ids.values())
    wrong = [
        f"{i} appears {counts[i]} times" if counts[i] else f"{i} is missing"
        for i in range(len(ids))
        if counts[i] != 1
    ]
    if wrong:
        raise DataError(
            f"{where}: the ids in {path} are wrong: {abbreviate(wrong)}. Use each of "
            f"0..{len(ids) - 1} once."
        )
    return tuple(sorted(ids, key=ids.__getitem__))


def _image_folder(root: Path, names: Sequence[str]) -> Path:
    """Return the folder, `root` or one inside it, that contains most of the files."""
    inside = sorted(path.name for path in root.iterdir() if path.is_dir())
    folders = [name for name in _USUAL_FOLDERS if name in inside or not name]
    folders += [name for name in inside if name not in folders and not name.startswith(".")]
    wanted = set(map(composed, names))
    counts = {
        name: len(wanted.intersection(map(composed, os.listdir(root / name)))) for name in folders
    }
    best = max(folders, key=lambda name: counts[name])
    if not counts[best]:
        places = ", ".join(str(root / name) for name in folders)
        raise DataError(
            f"data.path: none of the {len(names)} images that {TRAIN} names ({abbreviate(names)}) "
            f"is in {places}. Move their folder into {root}."
        )
    return root / best
