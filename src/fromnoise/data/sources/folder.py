"""Sources `folder`, `zip` and `iclevr`: image files in natural order, with their labels.

A label file is used if it is in the folder that contains all images, or in a folder above. Images
that it does not name have no known labels (0). A missing file that it names is a broken image.

Without a label file, sub-folders are classes: the first folder of each path below the folder that
contains all images (`photos/` in `photos.zip`). An image outside the class folders has no known
class (0). If no image is in a sub-folder, there are no labels.

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
from typing import IO

import numpy as np

from fromnoise.data.decoding.decode import ACCEPTED, EXTENSIONS, RGB, count_types, left_out
from fromnoise.data.errors import DataError, abbreviate, unreadable
from fromnoise.data.labels import LABEL_FILES, lists_of_names, one_hot, suggest_labels
from fromnoise.data.sources import base
from fromnoise.data.text import decode_utf8, natural_key, open_regular, read_json

OBJECTS, TRAIN = "objects.json", "train.json"
_USUAL_FOLDERS = ("iclevr", "images", "")


def folder(request: base.SourceRequest) -> base.SourceListing:
    """Open every image below a folder. Links are followed; hidden files and `__MACOSX` are not."""
    root = base.require_path(request, "folder", folder=True)
    stats = dict(_walk(root))
    if request.only is not None:
        stats = {name: stats[name] for name in request.only if name in stats}
    images, label_file, notes = _choose(stats, root)

    def open_reader() -> base.ImageReader:
        return _reader(
            images, label_file, lambda name: open_regular(root / name), root, request.background
        )

    files = [*images, label_file] if label_file else images
    stamp = [[name, stats[name].st_size, stats[name].st_mtime_ns] for name in files]
    return base.SourceListing(stamp, open_reader, notes)


def zip_file(request: base.SourceRequest) -> base.SourceListing:
    """Open every image in a zip archive, as in a folder. The archive is never unpacked."""
    path = base.require_path(request, "zip")

    def open_reader() -> base.ImageReader:
        with ExitStack() as stack:
            problem = f"data.path: {path} cannot be read as a zip archive"
            with unreadable(problem, zipfile.BadZipFile, OSError):
                archive = stack.enter_context(zipfile.ZipFile(path))
            files = [info for info in archive.infolist() if not info.is_dir()]
            members = {str(PurePosixPath(info.filename)): info for info in files}
            images, label_file, notes = _choose(members, path)
            reader = _reader(
                images,
                label_file,
                lambda name: archive.open(members[name]),
                path,
                request.background,
                notes,
            )
            return replace(reader, close=stack.pop_all().close)

    return base.SourceListing(base.stat_stamp(path), open_reader)


def folder_labels(names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return labels int8 (N, K) and the K class names of relative file names, by sub-folder."""
    depth = len(_shared_folder(names))
    folders = [PurePosixPath(name).parts[depth:-1] for name in names]
    classes = [steps[0] if steps else "" for steps in folders]
    label_names = tuple(sorted(set(classes) - {""}, key=natural_key))
    if not label_names:
        return None, ()
    number = {name: i for i, name in enumerate(label_names)} | {"": -1}
    return one_hot(np.array([number[name] for name in classes]), len(label_names)), label_names


def _choose(files: Collection[str], where: Path) -> tuple[list[str], str | None, tuple[str, ...]]:
    """Return the images among these names, in order, their label file, and notes on the others."""

    def hidden(step: str) -> bool:
        return step.startswith(".") or step == "__MACOSX"

    visible = [name for name in files if not any(map(hidden, PurePosixPath(name).parts))]
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not images:
        others = f"only {count_types(visible)}" if visible else "and no other files"
        raise DataError(f"data.path: {where} has no images, {others}. {ACCEPTED}")
    shared = _shared_folder(images)
    folders = [PurePosixPath(*shared[:depth]) for depth in range(len(shared) + 1)]
    names = [str(folder / name) for folder in folders for name in LABEL_FILES]
    label_files = [name for name in names if name in files]
    if len(label_files) > 1:
        raise DataError(
            f"data.path: {where} has several label files: {' and '.join(label_files)}. Keep one."
        )
    label_file = label_files[0] if label_files else None
    notes = left_out(set(visible) - {*images, label_file})
    return sorted(images, key=natural_key), label_file, notes


def _reader(
    images: Sequence[str],
    label_file: str | None,
    open_file: Callable[[str], IO[bytes]],
    where: Path,
    background: RGB,
    notes: tuple[str, ...] = (),
) -> base.ImageReader:
    """Return a reader of the images, then of the missing files that the label file names."""
    names, path = images, PurePosixPath(label_file or "")
    labels, label_names = (None, ()) if label_file else folder_labels(images)
    if label_file:
        place = f"data.path: {where / label_file}"
        # any exception, as for an image
        with unreadable(f"{place} cannot be read", Exception), open_file(label_file) as file:
            content = file.read()
        rows, label_names = LABEL_FILES[path.name](decode_utf8(content, where=place), where=place)
        labels_of: dict[str, np.ndarray] = {}
        for file, row in rows.items():
            name = str(path.parent / file)
            if name in labels_of:  # "./a.png" and "a.png" are one file
                raise DataError(f"{place} has the file {name!r} twice. Remove one of them.")
            labels_of[name] = row
        missing = labels_of.keys() - set(images)
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
            labels = np.stack([labels_of.get(name, unknown) for name in names])
    return base.file_reader(
        names,
        open_file,
        found=set(images),
        missing=f"named in {path.name}, but not among the images of {where.name}",
        background=background,
        labels=(labels, label_names),
        labels_from=label_file or "sub-folders",
        notes=notes,
    )


def _shared_folder(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of the path to the folder that contains all of these files."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # any prefix they share, all share
    return tuple(step for step, _ in takewhile(lambda steps: steps[0] == steps[1], ends))


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative name, separated by "/", and the stat of every file."""
    visited: set[str] = set()  # a link to a parent folder would never end

    def refuse(error: OSError) -> None:
        raise DataError(f"data.path: {error.filename} cannot be read: {error.strerror}") from error

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
        raise DataError(
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
        for name in present:
            if name not in label_names:
                hint = suggest_labels(name, label_names)
                raise DataError(f"{where}: {file!r}: there is no label {name!r}. {hint}")
    names = list(named)
    signs = [[1 if name in present else -1 for name in label_names] for present in named.values()]
    labels = np.array(signs, dtype=np.int8)
    folder = _image_folder(root, names)
    found = {entry.name for entry in os.scandir(folder) if entry.is_file()}

    def open_reader() -> base.ImageReader:
        return base.file_reader(
            names,
            lambda name: open_regular(folder / name),
            found=found,
            missing=f"named in {TRAIN}, but not in {folder.name}/",
            background=request.background,
            labels=(labels, label_names),
        )

    images = [base.stat_stamp(folder / name) if name in found else [name] for name in names]
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
    counts = {name: len(set(names).intersection(os.listdir(root / name))) for name in folders}
    best = max(folders, key=lambda name: counts[name])
    if not counts[best]:
        places = ", ".join(str(root / name) for name in folders)
        raise DataError(
            f"data.path: none of the {len(names)} images that {TRAIN} names ({abbreviate(names)}) "
            f"is in {places}. Move their folder into {root}."
        )
    return root / best
