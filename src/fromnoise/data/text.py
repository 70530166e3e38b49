"""Text files: open, decode UTF-8, parse strict JSON, prepare values for it; compare names."""

import json
import math
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import BaseModel

from fromnoise.data.errors import DataError, unreadable


def decode_utf8(content: bytes, *, where: str) -> str:
    """Decode the bytes of a text file, without the byte order mark that some programs write.

    where: the beginning of the error message. Raises `DataError` if the bytes are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error


def parse_json(text: str, *, where: str) -> Any:
    """Parse JSON. Raises `DataError` if it is invalid, or if an object repeats a key."""

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
            raise DataError(f"{where} has the key {twice!r} twice. Remove one of them.")
        return values

    # also numbers too long, lists too deep
    with unreadable(f"{where} is not valid JSON", ValueError, RecursionError, fix="Correct it."):
        return json.loads(text, object_pairs_hook=without_repeats)


def plain(value: Any) -> Any:
    """Return models and named tuples as dicts, and None for NaN, at any depth."""
    if isinstance(value, BaseModel):
        value = dict(value)
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to read. Raises OSError for a pipe or a device, which may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file")
    return path.open("rb")


def read_json(path: Path, *, where: str) -> Any:
    """Read and parse a JSON file. Raises `DataError` as above, or if the file cannot be read."""
    with unreadable(f"{where} cannot be read", OSError), open_regular(path) as file:
        content = file.read()
    return parse_json(decode_utf8(content, where=where), where=where)


def composed(name: str) -> str:
    """Return a name in Unicode's form NFC: macOS writes "é" as an e and an accent."""
    return unicodedata.normalize("NFC", name)


def with_slashes(names: Sequence[str]) -> list[str]:
    r"""Return paths with "/" for "\" if no path has a "/": some programs of Windows write those."""
    mixed = any("/" in name for name in names)
    return list(names) if mixed else [name.replace("\\", "/") for name in names]


def natural_key(name: str) -> list[tuple[list[tuple[int, int, str]], str]]:
    """Return a key that sorts "img2" before "img10", folder by folder, ignoring case."""

    def key(step: str) -> list[tuple[int, int, str]]:
        parts = filter(None, re.split(r"(\d+)", step))
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts]

    return [(key(composed(step)), step) for step in PurePosixPath(name).parts]
