"""Text that people wrote: UTF-8, JSON without repeated keys, names in natural order."""

import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from fromnoise.data.errors import DataError


def utf8_text(content: bytes, *, where: str) -> str:
    """The text of a file, without the byte order mark that some programs put first.

    where: how an error begins. Raises `DataError` where it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not text in UTF-8: {error.reason}") from error


def strict_json(text: str, *, where: str) -> Any:
    """What the JSON says. Raises `DataError` where it is none, or where an object repeats a key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        said = dict(pairs)
        if len(said) < len(pairs):
            twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
            raise DataError(f"{where} says {twice!r} twice; say each name once")
        return said

    try:
        return json.loads(text, object_pairs_hook=unique)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # also numbers too long, lists too deep
        raise DataError(f"{where} is not JSON that can be read: {error}") from error


def read_json(path: Path, *, where: str) -> Any:
    """What the JSON of a file says; errors as above, and where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}") from error
    return strict_json(utf8_text(content, where=where), where=where)


def natural_key(name: str) -> list[tuple[list[tuple[int, int, str]], str]]:
    """Sorts "img2" before "img10", folder by folder, whatever the case."""
    return [
        (
            [
                (0, int(part), "") if part.isdecimal() else (1, 0, part.casefold())
                for part in re.split(r"(\d+)", step)
                if part
            ],
            step,
        )
        for step in PurePosixPath(name).parts
    ]
