"""Format an error as one line, for the command line and the studio."""

import re


def error_line(error: Exception) -> str | None:
    """Return the message of an expected error, or None for a bug."""
    message = sentence(re.sub(r"\s*\n\s*", " ", str(error)))
    if isinstance(error, ValueError):
        return message
    from fromnoise.checkpoints import DiskFull, NotFinite

    if isinstance(error, OSError):
        return str(error.strerror) if isinstance(error, DiskFull) else message
    from fromnoise.training.loop import Diverged, is_out_of_memory

    if is_out_of_memory(error):
        return (
            "out of memory. Set training.parts to 2 or another divisor of the batch size, which "
            "computes the same batch in parts, or training.checkpoint_gradients=true, which "
            "computes blocks twice. For sampling, set a smaller --batch-size."
        )
    return message if isinstance(error, Diverged | NotFinite) else None


def sentence(message: str) -> str:
    """Return the message, ending with a full stop."""
    return message if message.endswith((".", "?", "…")) else f"{message}."
