"""Errors about data, and how their messages shorten lists and exceptions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fromnoise.progress import printable


class DataError(ValueError):
    """Data that cannot be used. The message is one line: `<problem>. <fix>.`"""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # names of files may contain anything


class SeveralSizes(DataError):
    """The images have several sizes, and no size was set. `sizes` describes them."""

    def __init__(self, sizes: str) -> None:
        super().__init__(f"{sizes}. Set data.size, for example data.size=64.")
        self.sizes = sizes


class NotAvailable(DataError):
    """The images are not on this machine: the path is missing, or a download is needed."""


class NoSplit(DataError):
    """The source has no images of this split."""


class BrokenImage(Exception):
    """An image that cannot be read. The message is the reason. Never leaves `fromnoise.data`."""


@contextmanager
def unreadable(
    problem: str, *kinds: type[Exception], fix: str = "Check the file."
) -> Iterator[None]:
    """Raise exceptions of these kinds as `DataError`: the problem, their reason, and the fix."""
    try:
        yield
    except DataError:
        raise
    except kinds as error:
        raise DataError(f"{problem}: {reason(error).rstrip('.')}. {fix}") from error


def abbreviate(names: Sequence[str], limit: int = 3) -> str:
    """Join the first `limit` names in one line, and count the others."""
    more = f"; and {len(names) - limit} more" if len(names) > limit else ""
    return "; ".join(names[:limit]) + more


def reason(error: Exception) -> str:
    """Return the message of an exception as one line, without error numbers and file names."""
    message = error.strerror if isinstance(error, OSError) else None
    return message or " ".join(str(error).split()) or type(error).__name__
