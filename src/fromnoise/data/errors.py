"""What goes wrong with data: `DataError` for the person, `BrokenImage` for one file."""

from collections.abc import Sequence


class DataError(ValueError):
    """Data that cannot be used. One line: what, where, what is allowed, what to do."""


class SeveralSizes(DataError):
    """Images have no common size, and none was asked for; `found` says which there are."""

    def __init__(self, found: str, *, way_out: str) -> None:
        super().__init__(f"{found}; {way_out}")
        self.found = found


class BrokenImage(Exception):
    """One image that cannot be read; its message is the reason. Never leaves this package."""


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """At most `limit` of the names in one line, and how many more there are."""
    more = f"; and {len(names) - limit} more" if len(names) > limit else ""
    return "; ".join(names[:limit]) + more
