"""Errors about data, and how their messages shorten lists and exceptions."""

from collections.abc import Sequence


class DataError(ValueError):
    """Data that cannot be used. The message is one line: `<problem>. <fix>.`"""


class SeveralSizes(DataError):
    """The images have several sizes, and no size was set. `sizes` describes them."""

    def __init__(self, sizes: str, *, fix: str) -> None:
        super().__init__(f"{sizes}. {fix}.")
        self.sizes = sizes


class NotAvailable(DataError):
    """The images are not on this machine: the path is missing, or a download is needed."""


class BrokenImage(Exception):
    """An image that cannot be read. The message is the reason. Never leaves `fromnoise.data`."""


def abbreviate(names: Sequence[str], limit: int = 3) -> str:
    """Join the first `limit` names in one line, and count the others."""
    more = f"; and {len(names) - limit} more" if len(names) > limit else ""
    return "; ".join(names[:limit]) + more


def reason(error: Exception) -> str:
    """Return the message of an exception as one line, without error numbers and file names."""
    message = error.strerror if isinstance(error, OSError) else None
    return message or " ".join(str(error).split()) or type(error).__name__
