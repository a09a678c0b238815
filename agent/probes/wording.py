"""What a trainer says and raises, in words and numbers that an event can carry.

All of it passes through here on its way: text of any length, names that are no
UTF-8 or no text, and exceptions that fail when they are asked for theirs.
"""

from typing import Any

from agent.rundir.errors import RunDirError
from agent.rundir.readable import readable

_MAX_CHARS = 2_000
"""An outcome has to fit into a small file, a line into one write."""


_MAX_STEP = 2**63


def as_name(value: object) -> str:
    """Return how events name what a trainer gave a name. Never raises."""
    if type(value) is str and value.isascii() and len(value) <= _MAX_CHARS:
        return value
    return clipped(_said(value))


def as_step(value: Any) -> int | None:  # noqa: ANN401 - whatever a trainer counts with
    """Return a number of steps; None: it is none that an event can carry."""
    try:
        step = int(value)
    except Exception:  # noqa: BLE001 - training must not see it
        return None
    return step if abs(step) < _MAX_STEP else None


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


def _said(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - it is told of, whatever its `__str__` does
        return "it cannot say what"
