"""Names in the order in which people count."""

import re
from pathlib import PurePosixPath


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
