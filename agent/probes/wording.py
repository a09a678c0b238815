"""What an exception says, in words that an event can carry.

Whatever a trainer raises passes through here on its way: text of any length,
names that are no UTF-8, and exceptions that fail when they are asked for theirs.
"""

from agent.rundir.errors import RunDirError
from agent.rundir.readable import readable

_MAX_CHARS = 2_000
"""An outcome has to fit into a small file, a line into one write."""


def in_words(error: BaseException) -> str:
    """Return the kind of an exception and what it says. Never raises."""
    return clipped(f"{type(error).__name__}: {_said(error)}")


def in_plain_words(error: BaseException) -> str:
    """Return likewise, without its kind where it tells what the world lacks."""
    if isinstance(error, RunDirError):
        return clipped(_said(error))
    return in_words(error)


def clipped(text: str) -> str:
    """Return what an outcome or a line has room for, and can be written."""
    text = readable(text)
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is told of, whatever its `__str__` does
        return "it cannot say what"
