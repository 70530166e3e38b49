"""Refuse files that are not checkpoints of other programs, and name the command for each."""

import zipfile
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from fromnoise.checkpoints import CheckpointError, read_tensors
from fromnoise.classifier import classifier
from fromnoise.model import spec
from fromnoise.model.spec import is_model

PACKED = "is packed ({}). Unpack it, and give the checkpoint in it."
BEGINNINGS = {  # the first bytes of a file, in lower case: the problem and its fix
    b"\x1f\x8b": PACKED.format("gzip"),
    b"7z\xbc\xaf": PACKED.format("7z"),
    b"rar!": PACKED.format("rar"),
    b"\xfd7zxz": PACKED.format("xz"),
    b"\x89hdf": "is an HDF5 file, without weights of torch. Give a file of torch.save.",
    b"\x93numpy": "is an array of numpy, not weights. To check images: fromnoise data check FOLDER",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file. Fetch it: git lfs pull",
    b"<!doctype html": "is an HTML page. Download the file itself, not the page about it.",
    b"<html": "is an HTML page. Download the file itself, not the page about it.",
}


def refuse_other_files(file: Path) -> None:
    """Raise CheckpointError if a path is missing, of fromnoise itself, an image or other data."""
    if problem := _problem(file):
        raise CheckpointError(f"{file.absolute()} {problem}")


def _problem(file: Path) -> str | None:
    if file.is_dir():
        if (file / classifier.SPEC_FILE).exists():
            return _own_classifier(file)
        return (
            _own_model(file)
            if is_model(file)
            else "is a folder. Give a file in it, or a folder of diffusers."
        )
    if not file.is_file():
        return "does not exist. Give a checkpoint file."
    with file.open("rb") as opened:
        head = opened.read(64)
    if not head:
        return "is empty. Copy or download it again."
    for start, problem in BEGINNINGS.items():
        if head.lstrip().lower().startswith(start):
            return problem
    if file.suffix == ".safetensors":
        metadata = read_tensors(file, metadata_only=True).metadata
        if classifier.METADATA_KEY in metadata or classifier.OLD_METADATA_KEY in metadata:
            return _own_classifier(file)
        return _own_model(file) if spec.METADATA_KEY in metadata else None
    if file.suffix in (".yaml", ".yml"):
        return f"is a YAML file, not weights. To train a recipe: fromnoise train {file}"
    if zipfile.is_zipfile(file):
        return _other_archive(file)
    if head.startswith(b"PK\x03\x04"):
        return "is cut off: it begins as a file of torch.save, but has no end. Copy it again."
    if _is_text(head):
        line = head.decode(errors="ignore").split("\n")[0]
        return f"is text, not weights (it begins with {line!r}). Give a file that torch.save wrote."
    try:
        with Image.open(file) as picture:
            kind, (width, height) = picture.format, picture.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (
        f"is a {kind} image of {width}x{height} pixels, not weights. To check images: fromnoise "
        f"data check {file.absolute().parent}"
    )


def _is_text(head: bytes) -> bool:
    """Return whether bytes are printable text, whose last character may be cut off."""
    text = head.decode(errors="ignore")
    printable = all(character.isprintable() or character in "\n\r\t" for character in text)
    return printable and len(head) - len(text.encode()) < 4


def _own_model(path: Path) -> str:
    return (
        f"is a model of fromnoise and needs no import. To sample: fromnoise sample "
        f"{path.absolute()}"
    )


def _own_classifier(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    return (
        "is a classifier of fromnoise and needs no import. To score: fromnoise evaluate-labels RUN "
        f"--classifier {folder.absolute()}"
    )


def _other_archive(file: Path) -> str | None:
    """Return the problem with a zip archive that has no pickle of torch, or None."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None
    if any(name.endswith(("data.pkl", "constants.pkl")) for name in names):
        return None
    kind = "an npz of numpy" if all(name.endswith(".npy") for name in names) else "a zip archive"
    return (
        f"is {kind} without weights (it begins with {', '.join(names[:3]) or 'nothing'}). To check "
        f"images: fromnoise data check {file.absolute()}"
    )
