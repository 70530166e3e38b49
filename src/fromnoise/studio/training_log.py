"""Read the log of a run while it grows."""

import os
from pathlib import Path
from typing import Any

from fromnoise.studio.runs import LOG, parse_row

SHOWN = {  # the columns that pages draw
    *("step", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "images_per_second"),
    *("held_out_loss", "trained_loss", "images", "epoch", "seconds", "batch_size"),
}
MOST = 1500  # rows of a curve


class LogReader:
    """Read the rows of a log: all in the first call, then only new ones."""

    def __init__(self, run: Path) -> None:
        self._file = run / LOG
        self._place: tuple[int, int] | None = None  # inode, and bytes read so far

    def read(self) -> list[dict[str, Any]]:
        """Return the new rows, or all rows after a resumed run has replaced the file."""
        try:
            with self._file.open("rb") as file:
                status = os.fstat(file.fileno())
                number, begin = self._place or (status.st_ino, 0)
                if number != status.st_ino or begin > status.st_size:
                    begin = 0
                file.seek(begin)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half written
        self._place = status.st_ino, begin + len(whole)
        rows = [row for line in whole.splitlines() if (row := parse_row(line)) is not None]
        return [shown(row) for row in rows]


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that pages draw."""
    return {key: value for key, value in row.items() if key in SHOWN}


def thinned(rows: list[dict[str, Any]], most: int = MOST) -> list[dict[str, Any]]:
    """Return at most about `most` rows, evenly spaced, and all that have a held-out loss."""
    every = max(1, -(-len(rows) // most))
    kept = [(i, row) for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]
    kept += [(i, row) for i, row in enumerate(rows) if i % every and "held_out_loss" in row]
    return [row for _, row in sorted(kept, key=lambda pair: pair[0])]
